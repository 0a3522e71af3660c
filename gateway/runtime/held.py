"""What is published while a subscribe waits for its reply over a broker that takes its time: it comes behind the reply.

Owns the publications of one subscribe. Refuses to own the subscription (`carrying`).
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import msgspec

from gateway.core.frames import MessagePush, Push, SharedPush
from gateway.core.wire_frames import Framing
from gateway.runtime.fan_out import Batch
from gateway.runtime.ports import Transport

MAX_HELD = 10_000
"""Publications held back behind the reply to a subscribe."""


class Subscriber(Protocol):
    """The connection that they are for."""

    @property
    def identity(self) -> tuple[str, str]:
        """Give tenant and subject."""
        ...

    def may_see_presence(self, channel: str) -> bool:
        """Ask the policy whether joins and leaves of the channel may be shown."""
        ...

    def overflowed(self) -> None:
        """End a connection that has too much waiting."""
        ...


class Held:
    """Stands for a connection among a channel's subscribers until the reply to its subscribe is sent, and keeps what comes.

    Args:
        connection: The connection.
    """

    __slots__ = ("_connection", "pushes", "upto")

    framing: Framing | None = None

    def __init__(self, connection: Subscriber) -> None:
        self._connection = connection
        self.pushes: list[SharedPush] = []
        self.upto = 0
        """The offset that the reply tells."""

    @property
    def port(self) -> Transport:
        """Not asked, for there is no framing."""
        raise NotImplementedError

    @property
    def identity(self) -> tuple[str, str]:
        """Give tenant and subject."""
        return self._connection.identity

    def may_see_presence(self, channel: str) -> bool:
        """Ask the policy whether joins and leaves of the channel may be shown."""
        return self._connection.may_see_presence(channel)

    def deliver(self, batch: Batch) -> None:
        """Keep what comes; of too much, end the connection."""
        if len(self.pushes) + len(batch.pushes) > MAX_HELD:
            asyncio.get_running_loop().call_soon(self._connection.overflowed)
        else:
            self.pushes.extend(batch.pushes)

    def behind_the_reply(self) -> list[SharedPush]:
        """Give what the reply does not hold."""
        return [each for each in self.pushes if not _told(each.push, self.upto)]


def _told(push: Push, upto: int) -> bool:
    """Tell whether a position holds a push already."""
    return isinstance(push, MessagePush) and push.offset is not msgspec.UNSET and push.offset <= upto
