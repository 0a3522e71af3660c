"""Where the lines of `gateway connect` come from: a prompt with history and completion, or whatever is piped in.

Owns standard input. Refuses to own what a line means: see `connect_lines`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.cli.connect_lines import CHANNEL_VERBS, VERBS

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion
    from prompt_toolkit.document import Document
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

MAX_LINE_BYTES = 16_777_216
MAX_SECRET_BYTES = 65_536


def first_line() -> str:
    """Take one line of standard input and leave the others where they are."""
    taken = bytearray()
    while len(taken) < MAX_SECRET_BYTES:
        octet = os.read(0, 1)
        if octet in {b"", b"\n"}:
            break
        taken += octet
    return taken.decode().removesuffix("\r")


async def piped_lines() -> AsyncIterator[str]:
    """Give the lines of standard input as they come; the loop goes on meanwhile where it is a pipe."""
    mode = os.fstat(0).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        for line in sys.stdin:  # a file, which never lets anybody wait
            yield line
        return
    reader = asyncio.StreamReader(limit=MAX_LINE_BYTES)
    with os.fdopen(os.dup(0), "rb", buffering=0) as pipe:
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        try:
            while line := await reader.readline():
                yield line.decode(errors="replace")
        finally:
            transport.close()


async def prompted_lines(channels: Callable[[], Iterable[str]]) -> AsyncIterator[str]:
    """Give the lines that a person types, until Ctrl-D, or Ctrl-C on an empty line.

    Args:
        channels: The channels to complete with.
    """
    from prompt_toolkit.patch_stdout import patch_stdout  # noqa: PLC0415 - only a terminal needs it

    session = _session(channels)
    with patch_stdout(raw=True):
        while True:
            try:
                yield await session.prompt_async("> ")
            except EOFError:
                return


def history_path() -> Path:
    """Give the file of past lines, among the user's state (XDG base directories)."""
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "portcullis" / "connect-history"


def _session(channels: Callable[[], Iterable[str]]) -> PromptSession[str]:
    from prompt_toolkit import PromptSession  # noqa: PLC0415 - as above
    from prompt_toolkit.auto_suggest import AutoSuggestFromHistory  # noqa: PLC0415 - as above
    from prompt_toolkit.history import FileHistory, InMemoryHistory  # noqa: PLC0415 - as above
    from prompt_toolkit.shortcuts import CompleteStyle  # noqa: PLC0415 - as above

    path = history_path()
    writable = False
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)  # lines hold what people send each other
        writable = os.access(path, os.R_OK | os.W_OK)
    return PromptSession(
        history=FileHistory(str(path)) if writable else InMemoryHistory(),
        auto_suggest=AutoSuggestFromHistory(),
        completer=_completer(channels),
        complete_while_typing=False,
        key_bindings=_keys(),
        enable_history_search=True,
        complete_style=CompleteStyle.READLINE_LIKE,
    )


def _completer(channels: Callable[[], Iterable[str]]) -> Completer:
    from prompt_toolkit.completion import Completer, Completion  # noqa: PLC0415 - as above

    class Lines(Completer):
        def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:  # noqa: ARG002 - the library's signature
            text = document.text_before_cursor.lstrip()
            word = document.get_word_before_cursor(WORD=True)
            for choice in completions(text, channels()):
                yield Completion(choice if choice.endswith("=") else f"{choice} ", start_position=-len(word))

    return Lines()


def completions(text: str, channels: Iterable[str]) -> list[str]:
    """Give what may stand in place of the last word of a line.

    Args:
        text: The line up to the cursor.
        channels: The channels that are known.
    """
    words = text.split()
    place = len(words) - (0 if not words or text.endswith(" ") else 1)
    begun = words[place] if place < len(words) else ""
    if place == 0:
        choices: Iterable[str] = VERBS
    elif place == 1 and words[0] in CHANNEL_VERBS:
        choices = sorted(set(channels))
    elif place == 1 and words[0] == "help":
        choices = VERBS
    elif words[0] == "history":
        choices = ("limit=", "before=", "after=")
    else:
        choices = ()
    return [choice for choice in choices if choice.startswith(begun)]


def _keys() -> KeyBindings:
    from prompt_toolkit.key_binding import KeyBindings  # noqa: PLC0415 - as above

    keys = KeyBindings()

    @keys.add("c-c")
    def _(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=EOFError)

    return keys
