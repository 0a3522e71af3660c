"""`python -m gateway` and the `gateway` command."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and leave with its exit code."""
    from gateway.cli.app import run  # noqa: PLC0415 - what only imports this module pays nothing for the command line

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
