"""The commands of one connection that are under way: which may begin, which wait, and when to stop reading.

Owns the cap and the order: commands about one channel are carried out one after the other, and what waits is begun in the order
in which it came. Refuses to own what a command does.
"""

from __future__ import annotations

from collections import deque

import msgspec

from gateway.core.decision import BoundPolicy
from gateway.core.frames import Command

MAX_IN_FLIGHT = 64
"""Commands of one connection that may wait for the runtime at once; beyond it nothing more is read."""


class Running(msgspec.Struct, frozen=True, gc=False):
    """A command that the runtime works on.

    Args:
        action: Its action.
        channel: Its channel, if it has one.
        data: Its data as it came, where that is to be known when it is done.
        allowed_by: The policy that allowed it.
        started_at: Seconds on the observer's timer.
    """

    action: str
    channel: str | None
    data: object
    allowed_by: BoundPolicy
    started_at: float


class Waiting(msgspec.Struct, frozen=True, gc=False):
    """A command that waits, as it came: what it is decoded into may take twenty times as much.

    Args:
        id: Its id.
        channel: Its channel, if it has one.
        body: Its octets.
    """

    id: int
    channel: str | msgspec.UnsetType | None
    body: bytes


class InFlight:
    """The commands of one connection that have begun or wait to."""

    __slots__ = ("_paused", "_waiting", "running")

    def __init__(self) -> None:
        self.running: dict[int, Running] = {}
        """The commands that have begun, by id."""
        self._waiting: deque[Waiting] | None = (
            None  # made when it is needed, for an empty one takes more than all the rest
        )
        self._paused = False

    def holds(self, command_id: int) -> bool:
        """Tell whether an id is taken."""
        return command_id in self.running or (
            self._waiting is not None and any(each.id == command_id for each in self._waiting)
        )

    def admit(self, command: Command, body: bytes) -> bool:
        """Tell whether a command, whose octets are `body`, may begin now; otherwise it waits its turn here."""
        channel = command.channel
        if not self.running or (not self._waiting and len(self.running) < MAX_IN_FLIGHT and not self._busy(channel)):
            return True
        if self._waiting is None:
            self._waiting = deque()
        self._waiting.append(Waiting(command.id, channel, body))
        return False

    def begin(self, command_id: int, running: Running) -> None:
        """Note that a command is on its way."""
        self.running[command_id] = running

    def end(self, command_id: int) -> Running:
        """Note that it is no longer."""
        return self.running.pop(command_id)

    def next(self) -> bytes | None:
        """Take the octets of the command that has waited longest, if it may begin now."""
        waiting = self._waiting
        if not waiting or len(self.running) >= MAX_IN_FLIGHT or self._busy(waiting[0].channel):
            return None
        return waiting.popleft().body

    def count(self, action: str) -> int:
        """Count the commands on their way that do `action`."""
        return sum(1 for each in self.running.values() if each.action == action)

    def forget_waiting(self) -> None:
        """Drop what has not begun."""
        self._waiting = None

    def must_pause(self) -> bool:
        """Tell, once, that reading has to stop."""
        if self._paused or self._held < MAX_IN_FLIGHT:
            return False
        self._paused = True
        return True

    def may_resume(self) -> bool:
        """Tell, once, that reading may go on."""
        if not self._paused or self._held >= MAX_IN_FLIGHT:
            return False
        self._paused = False
        return True

    @property
    def _held(self) -> int:
        return len(self.running) + (0 if self._waiting is None else len(self._waiting))

    def _busy(self, channel: str | msgspec.UnsetType | None) -> bool:
        return channel is not msgspec.UNSET and any(each.channel == channel for each in self.running.values())
