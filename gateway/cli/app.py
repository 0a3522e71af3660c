"""The root of the command line: finds the command, runs it, and turns every failure into one line and an exit code.

Owns the list of commands and the way out. Refuses to own what a command does: each noun has a module of its own, imported
when it is asked for, so that `gateway --help` costs nothing of a server.
"""

from __future__ import annotations

import importlib
import io
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.exceptions import Abort, TyperException

from gateway.cli import terminal
from gateway.cli.failure import FAILED, CommandFailure
from gateway.core.errors import GatewayError

COMMANDS = {
    "serve": "Start the gateway.",
    "connect": "Log in, connect, and talk to a gateway by hand.",
    "users": "Add, list, change and delete users.",
    "clients": "Add, list, change and delete service accounts.",
    "policy": "Check, test, explain and show the policy.",
    "token": "Issue, inspect and revoke access tokens.",
    "keys": "List and rotate the keys that sign tokens.",
    "config": "Check and show the settings.",
    "db": "Bring the database up to date.",
    "version": "Print the version.",
}
"""Each command is the `app` of the module `gateway.cli.NAME`."""

EXAMPLES = """\b
Examples:
  gateway serve --dev                  a gateway to try, with demo users
  gateway connect                      talk to it from another terminal
  gateway users add --help             every command has help with an example

Where a command prints data, `--json` prints it for programs.
"""

SUMMARY_CHARACTERS = 56
"""What an 80 column terminal has room for beside the longest verb."""

INTERRUPTED = 130
"""The exit code after Ctrl-C: 128 and the number of SIGINT, as shells have it."""

_COMPLETING = "_GATEWAY_COMPLETE"


def run(arguments: Sequence[str]) -> int:
    """Carry out one command line and give its exit code.

    Args:
        arguments: What stands behind `gateway`.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot write is no reason to fail
    try:
        code = _invoke(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read has seen enough. What is still buffered must not fail once more when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return code


def _invoke(arguments: Sequence[str]) -> int:
    try:
        result = _root(arguments).main(args=list(arguments), prog_name="gateway", standalone_mode=False)
    except TyperException as wrong:
        return _usage(wrong)
    except CommandFailure as failure:
        return _fail(str(failure), failure.exit_code)
    except GatewayError as wrong:
        return _fail(str(wrong), FAILED)
    except (Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except OSError as wrong:
        return _fail(_system_problem(wrong), FAILED)
    return result if isinstance(result, int) else 0


def _root(arguments: Sequence[str]) -> Any:  # noqa: ANN401 - Typer keeps the class of its commands private
    """Build the tree of commands: the one that is called in full, the others as their line of help."""
    app = typer.Typer(
        name="gateway",
        help=f"Portcullis, a secured WebSocket gateway.\n\n{EXAMPLES}",
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.callback(invoke_without_command=False)(lambda: None)
    root = typer.main.get_command(app)
    called = next((argument for argument in arguments if not argument.startswith("-")), "")
    for name in COMMANDS:
        whole = name == called or _COMPLETING in os.environ
        root.add_command(_command(name) if whole else _placeholder(name), name)  # type: ignore[attr-defined]  # it has a callback, so it is a group
    return root


def _command(name: str) -> Any:  # noqa: ANN401 - as above
    module = importlib.import_module(f"gateway.cli.{name}")
    module.app.rich_markup_mode = None  # plain help: it starts in half the time and stays whole when it is copied
    module.app._add_completion = False  # noqa: SLF001 - the root offers it; Typer has no other way to withdraw it
    command = typer.main.get_command(module.app)
    for verb in getattr(command, "commands", {}).values():
        verb.short_help = _summary(verb.help)
    command.name = name
    command.context_settings = {"help_option_names": ["-h", "--help"], **(command.context_settings or {})}
    return command


def _summary(text: str | None) -> str:
    """Shorten a help to what fits its line in a list, at a joint of the sentence rather than in the middle of a word."""
    sentence = re.split(r"[.;:]\s|\n\n", " ".join((text or "").split()) + " ")[0]
    short = sentence if len(sentence) <= SUMMARY_CHARACTERS else sentence.partition(",")[0]
    return f"{short.strip()}." if short.strip() else ""


def _placeholder(name: str) -> Any:  # noqa: ANN401 - as above
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(name, help=COMMANDS[name])(lambda: None)
    return typer.main.get_command(app)


def _usage(wrong: TyperException) -> int:
    """Say in one line what was not understood, and where help is."""
    context = getattr(wrong, "ctx", None)
    path = context.command_path if context else "gateway"
    message = wrong.format_message()
    if (context and message in {"Missing command.", ""}) or message.startswith("Usage:"):
        terminal.note(context.get_help() if context else message)  # a noun without a verb: its help is the answer
        return wrong.exit_code
    sentence = " ".join(message.split()).rstrip(".?").replace(". Did you mean", ", did you mean").replace("(s)", "")
    sentence = re.sub(r"'([^']*)'", r"`\1`", sentence)
    return _fail(f"{sentence[:1].lower()}{sentence[1:]}; see `{path} --help`", wrong.exit_code)


def _system_problem(wrong: OSError) -> str:
    """Name the file, where there is one, and what the system says."""
    reason = (wrong.strerror or str(wrong)).lower()
    return f"`{wrong.filename}`: {reason}" if wrong.filename else reason


def _fail(message: str, code: int) -> int:
    colours = terminal.coloured(sys.stderr)
    for line in message.splitlines() or ["failed"]:
        head = terminal.paint("gateway:", terminal.Style.BAD, colours=colours)
        terminal.note(f"{head} {terminal.printable(line)}")
    return code
