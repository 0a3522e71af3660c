"""One sitting at `gateway connect`: lines in, commands out, frames shown, until either side has had enough.

Owns the order of things and the exit code. Refuses to own the look (`connect_view`), the language (`connect_lines`) and the
protocol (`gateway.client`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, assert_never

from gateway.cli import meanings, terminal
from gateway.cli.connect_lines import VERBS, LineError, Local, Raw, Request, parse_line
from gateway.cli.connect_view import FrameView
from gateway.cli.failure import FAILED, USAGE
from gateway.cli.terminal import Style
from gateway.client import (
    ClientError,
    CommandRefusedError,
    ConnectionEndedError,
    Direction,
    Disconnected,
    Gap,
    GatewayClient,
    Position,
    SubscriptionLost,
)

MAX_CHANNELS_REMEMBERED = 256


@dataclass(frozen=True, slots=True)
class Manner:
    """How a sitting goes.

    Args:
        as_json: Frames from the gateway as JSON lines, and nothing else, on standard output.
        interactive: Whether a person types; else a bad line ends it, and refusals count for the exit code.
        stay: Whether to go on listening when the input has ended.
    """

    as_json: bool
    interactive: bool
    stay: bool


class Sitting:
    """A client, a view and the lines between them.

    Args:
        manner: How it goes.
        view: What makes lines of frames.
        clock: Unix seconds.

    Attributes:
        channels: The channels that were named so far.
        exit_code: What the command ends with; read it when the connection is closed, since answers may come until then.
    """

    def __init__(self, manner: Manner, view: FrameView, clock: Callable[[], float] = time.time) -> None:
        self.channels: dict[str, None] = {}
        self._manner = manner
        self._view = view
        self._clock = clock
        self.exit_code = 0

    def observe(self, direction: Direction, frame: object) -> None:
        """Show a frame."""
        if direction is Direction.RECEIVED and _refuses(frame):
            self._note_failure()
        if self._manner.as_json:
            if direction is Direction.RECEIVED:
                terminal.write_line(terminal.to_json(frame))
            return
        now = self._clock()
        show = self._view.received if direction is Direction.RECEIVED else self._view.sent
        for line in show(frame, now):
            terminal.write_line(line)

    async def run(self, client: GatewayClient, lines: AsyncIterator[str]) -> None:
        """Carry out all lines.

        Args:
            client: Connected.
            lines: What is typed or piped in.
        """
        reading = asyncio.create_task(self._read(client, lines), name="gateway connect: read lines")
        watching = asyncio.create_task(self._watch(client), name="gateway connect: watch")
        try:
            await asyncio.wait({reading, watching}, return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                reading.result()
                if self._manner.stay and self.exit_code != USAGE:
                    await watching
        finally:
            for task in (reading, watching):
                task.cancel()
            await asyncio.gather(reading, watching, return_exceptions=True)

    async def _read(self, client: GatewayClient, lines: AsyncIterator[str]) -> None:
        number = 0
        async for text in lines:
            number += 1
            try:
                line = parse_line(text)
            except LineError as wrong:
                if self._manner.interactive:
                    self._say(str(wrong), Style.BAD)
                    continue
                terminal.note(f"gateway: line {number}: {terminal.printable(str(wrong))}")
                self.exit_code = USAGE
                return
            if line is Local.QUIT:
                return
            if line is not None:
                await self._carry_out(client, line)

    async def _carry_out(self, client: GatewayClient, line: Request | Raw | Local) -> None:
        try:
            match line:
                case Request():
                    await self._request(client, line)
                case Raw(frame=frame):
                    await client.send_as_is(frame)
                case Local.REFRESH:
                    await client.refresh_session()
                case Local.HELP:
                    self._help()
                case Local.QUIT:
                    pass
                case _:
                    assert_never(line)
        except CommandRefusedError:
            pass  # `observe` has shown and counted it
        except TimeoutError:
            self._note_failure()
            self._say("no answer in time", Style.BAD)
        except ClientError as wrong:
            self._note_failure()
            self._say(str(wrong), Style.BAD)

    async def _request(self, client: GatewayClient, request: Request) -> None:
        if request.channel is not None and len(self.channels) < MAX_CHANNELS_REMEMBERED:
            self.channels[request.channel] = None
        match request:
            case Request(action="channel.subscribe", channel=str(channel)):
                await client.subscribe(channel, _recover(request.data))
            case Request(action="channel.unsubscribe", channel=str(channel)):
                await client.unsubscribe(channel)
            case _:
                await client.command(request.action, request.channel, request.data)

    async def _watch(self, client: GatewayClient) -> None:
        """Say what happens to the connection; the frames themselves are shown by `observe`."""
        try:
            async for event in client.events():
                match event:
                    case Disconnected(cause=cause, returns_after_s=wait_s):
                        self._say(f"{explain(cause)}; coming back in {wait_s:.1f} s", Style.NOTE)
                    case Gap(channel=channel):
                        self._say(f"messages of {channel} may be missing from here on", Style.NOTE)
                    case SubscriptionLost(channel=channel, cause=refused):
                        self._say(f"no longer subscribed to {channel}: {refused}", Style.BAD)
                    case _:
                        pass
        except ClientError as end:
            self.exit_code = FAILED
            self._say(explain(end), Style.BAD)

    def _note_failure(self) -> None:
        # A person has seen it, and leaves when done; a script wants to know.
        if not self._manner.interactive:
            self.exit_code = FAILED

    def _say(self, text: str, style: Style) -> None:
        line = self._view.note(text, self._clock(), style)
        if self._manner.as_json:
            terminal.note(line)
        else:
            terminal.write_line(line)

    def _help(self) -> None:
        width = max(len(verb.usage) for verb in VERBS.values())
        for verb in VERBS.values():
            terminal.write_line(f"  {verb.usage.ljust(width)}  {verb.summary}")


def _refuses(frame: object) -> bool:
    frames = frame if isinstance(frame, list) else [frame]
    return any(isinstance(one, dict) and one.get("type") == "error" for one in frames)


def explain(cause: ClientError) -> str:
    """Say what ended a connection, what that means and what to do."""
    match cause:
        case ConnectionEndedError(code=code, reason=reason):
            meaning = meanings.of_close(code, reason)
            return f"{cause}: {meaning}" if meaning else str(cause)
        case _:
            return str(cause)


def _recover(data: Any) -> Position | None:  # noqa: ANN401 - what a line gave
    match data:
        case {"recover": {"epoch": str(epoch), "offset": int(offset)}}:
            return Position(epoch, offset)
        case _:
            return None
