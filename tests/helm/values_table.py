"""The table of values in the chart's README, made from the comments in values.yaml.

A script of our own instead of helm-docs: that one is a Go program without a wheel, and the test suite must compare the table on a
machine that has Python only. Called as a program it writes the table: `python tests/helm/values_table.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[2] / "helm"
START, END = "<!-- values: made by tests/helm/values_table.py -->\n", "<!-- end of values -->\n"
_MARK = "# -- "


@dataclass(frozen=True)
class Value:
    """One value: its path, its default and what its comment says."""

    path: str
    default: Any
    meaning: str


def documented() -> list[Value]:
    """Read every value that has a comment beginning with `# -- `."""
    text = (CHART / "values.yaml").read_text()
    defaults = yaml.safe_load(text)
    return [Value(path, _at(defaults, path), meaning) for path, meaning in _comments(text)]


def leaves(node: Any, path: str = "") -> Iterator[str]:  # noqa: ANN401 - any values
    """Give the paths of values that nothing documented stands above."""
    if isinstance(node, dict) and node:
        for key, below in node.items():
            yield from leaves(below, f"{path}.{key}".lstrip("."))
    else:
        yield path


def table() -> str:
    """Give the table in Markdown."""
    rows = [
        f"| `{one.path}` | {_shown(one.default)} | {one.meaning.replace('|', chr(92) + '|')} |" for one in documented()
    ]
    return "\n".join(["| value | default | meaning |", "|---|---|---|", *rows, ""])


def readme_with_table(readme: str) -> str:
    """Give the README with the table in its place."""
    before, _, rest = readme.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}{table()}{END}{after}"


def _comments(text: str) -> Iterator[tuple[str, str]]:
    stack: list[tuple[int, str]] = []
    meaning: list[str] = []
    for line in text.splitlines():
        said = line.strip()
        if said.startswith(_MARK):
            meaning = [said.removeprefix(_MARK)]
        elif said.startswith("#") and meaning:
            meaning.append(said.removeprefix("#").strip())
        elif key := re.match(r"( *)([A-Za-z]\w*):", line):
            depth = len(key[1])
            stack = [*(one for one in stack if one[0] < depth), (depth, key[2])]
            if meaning:
                yield ".".join(name for _, name in stack), " ".join(meaning)
            meaning = []
        else:
            meaning = []


def _at(node: Any, path: str) -> Any:  # noqa: ANN401 - any values
    for key in path.split("."):
        node = node[key]
    return node


def _shown(value: object) -> str:
    return f"`{json.dumps(value)}`"


if __name__ == "__main__":
    page = CHART / "README.md"
    page.write_text(readme_with_table(page.read_text()))
