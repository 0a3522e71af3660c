"""The broker of a single node: publications, history and presence in this process's memory.

Owns the histories and their bound in bytes. Answers every call at once. What it forgets shows: a channel whose history was dropped
begins a new epoch, so that no recovery is ever told complete when it is not.
"""

from __future__ import annotations

import asyncio
import heapq
import secrets
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping

import msgspec

from gateway.core.channels import Position
from gateway.core.decision import ChannelOptions
from gateway.runtime.ports import Broadcast, Deliver, Direct, Message, Page, Presence

MAX_POSITIONS = 100_000
"""Channels whose position is remembered; beyond it the one that was published to longest ago is forgotten, epoch and all."""

SWEEP_S = 30.0
"""Seconds that a message may outlive its time in memory; no answer ever holds it."""

_MESSAGE_OVERHEAD_BYTES = 512
"""What a kept message takes beside its payload, about; its payload is kept as JSON text, for the objects that `[[],[]]` stands
for would take thirty times as much memory as is counted."""

_FREED_PART = 16
"""A full store frees a sixteenth at once, so that finding the largest channel is paid once for many publications."""


class _Log:
    """One channel's history: an epoch, the last offset, and the messages that are still kept."""

    __slots__ = ("bytes", "epoch", "messages", "name", "offset", "ttl_s")

    def __init__(self, name: str, epoch: str) -> None:
        self.name = name
        self.epoch = epoch
        self.offset = 0
        self.ttl_s = 0.0
        self.messages: deque[tuple[Message, int]] = deque()
        self.bytes = 0

    def append(self, message: Message, size: int) -> None:
        self.messages.append((message, size))
        self.bytes += size

    def drop_oldest(self) -> int:
        _, size = self.messages.popleft()
        self.bytes -= size
        return size


class MemoryBroker:
    """The in-process broker.

    Args:
        max_history_bytes: What all histories together may take; beyond it the largest channel loses its oldest.
        clock: Unix seconds.
        max_positions: How many channels' positions are remembered.
    """

    def __init__(self, max_history_bytes: int, clock: Callable[[], float], max_positions: int = MAX_POSITIONS) -> None:
        self._max_history_bytes = max_history_bytes
        self._max_positions = max_positions
        self._clock = clock
        self._deliver: Deliver  # named by `attach`, before anything else
        self._logs: OrderedDict[str, _Log] = OrderedDict()
        self._bytes = 0
        # The epoch of channels that nothing was published to since anything was forgotten. One for all: to ask where a channel
        # stands must leave nothing behind, or readers of made-up names would push the histories of others out.
        self._untouched_epoch = _new_epoch()
        self._present: dict[str, dict[tuple[str, str], set[str]]] = {}

    @property
    def in_process(self) -> bool:
        """Tell that no call ever waits."""
        return True

    @property
    def kept_bytes(self) -> int:
        """Tell what all histories together take, about."""
        return self._bytes

    def attach(self, deliver: Deliver) -> None:
        """Name this node's receiver; before anything else."""
        self._deliver = deliver

    # -------------------------------------------------------------------------------------------- publications

    async def publish(
        self, channel: str, data: object, sender: str, at: float, options: ChannelOptions
    ) -> Position | None:
        """Publish; answer the new position, None without history."""
        return self.publish_now(channel, data, sender, at, options)

    def publish_now(
        self, channel: str, data: object, sender: str, at: float, options: ChannelOptions
    ) -> Position | None:
        """Publish without a coroutine, which would cost more than all the rest of it."""
        position = None
        if options.history_messages:
            position = self._keep(channel, data, sender, at, options)
        elif channel in self._logs:
            self._forget(channel)
        self._deliver.message(channel, data, sender, at, position)
        return position

    def _keep(self, channel: str, data: object, sender: str, at: float, options: ChannelOptions) -> Position:
        """Put a publication into its channel's history."""
        log = self._open(channel)
        log.offset += 1
        text = msgspec.json.encode(data)
        size = len(text) + _MESSAGE_OVERHEAD_BYTES
        log.append(Message(log.name, msgspec.Raw(text), sender, at, log.offset, log.epoch), size)
        log.ttl_s = options.history_ttl_s
        self._bytes += size
        self._trim(log, options)
        if self._bytes > self._max_history_bytes:
            self._shrink()
        return Position(log.offset, log.epoch)

    async def subscribe(self, channel: str) -> None:
        """Bring this node what is published from now on: in one process it always is."""

    async def unsubscribe(self, channel: str) -> None:
        """Stop: in one process there is nothing to stop."""

    # -------------------------------------------------------------------------------------------- history

    async def position(self, channel: str, options: ChannelOptions) -> Position | None:
        """Tell where the channel's history stands; None without history."""
        if not options.history_messages:
            return None
        log = self._find(channel)
        return Position(0, self._untouched_epoch) if log is None else Position(log.offset, log.epoch)

    async def history(
        self, channel: str, options: ChannelOptions, *, limit: int, after: int | None, before: int | None
    ) -> Page:
        """Read at most `limit` messages, ascending; with `after` the oldest that fit, else the newest."""
        if not options.history_messages:
            return Page((), None)
        log = self._find(channel)
        if log is None:
            return Page((), Position(0, self._untouched_epoch))
        self._trim(log, options)
        low = 0 if after is None else after
        high = log.offset + 1 if before is None else before
        found = [message for message, _ in log.messages if low < message.offset < high]
        chosen = found[:limit] if after is not None else found[-limit:]
        return Page(tuple(chosen), Position(log.offset, log.epoch))

    def _find(self, channel: str) -> _Log | None:
        log = self._logs.get(channel)
        if log is not None:
            self._logs.move_to_end(channel)
        return log

    def _open(self, channel: str) -> _Log:
        log = self._find(channel)
        if log is None:
            log = self._logs[channel] = _Log(channel, self._untouched_epoch)
            if len(self._logs) > self._max_positions:
                self._forget(next(iter(self._logs)))
        return log

    def _forget(self, channel: str) -> None:
        self._bytes -= self._logs.pop(channel).bytes
        self._untouched_epoch = _new_epoch()  # it is untouched no longer, nor may it seem so

    def _trim(self, log: _Log, options: ChannelOptions) -> None:
        """Drop what is beyond the channel's own count and age."""
        while len(log.messages) > options.history_messages:
            self._bytes -= log.drop_oldest()
        self._expire(log, self._clock() - options.history_ttl_s)

    def _expire(self, log: _Log, oldest_at: float) -> None:
        messages = log.messages
        while messages and messages[0][0].at < oldest_at:
            self._bytes -= log.drop_oldest()

    def sweep(self) -> None:
        """Drop what is past its time in channels that nobody reads or publishes to any more."""
        now = self._clock()
        for log in self._logs.values():
            self._expire(log, now - log.ttl_s)

    async def run(self, every_s: float = SWEEP_S) -> None:
        """Sweep from time to time, until cancelled."""
        while True:
            await asyncio.sleep(every_s)
            self.sweep()

    def _shrink(self) -> None:
        """Take from the largest channel, oldest first, until a part of the store is free again."""
        target = self._max_history_bytes - self._max_history_bytes // _FREED_PART
        # A heap, for many channels of one size are each the largest in turn: to look for it anew took minutes with 100,000.
        heap = [(-log.bytes, number, log) for number, log in enumerate(self._logs.values()) if log.messages]
        heapq.heapify(heap)
        while heap and self._bytes > target:
            _, number, largest = heap[0]
            floor = max((-size for size, _, _ in heap[1:3]), default=0)
            while largest.messages and self._bytes > target and largest.bytes >= floor:
                self._bytes -= largest.drop_oldest()
            if largest.messages:
                heapq.heapreplace(heap, (-largest.bytes, number, largest))
            else:
                heapq.heappop(heap)

    # -------------------------------------------------------------------------------------------- presence

    async def join(self, channel: str, tenant: str, subject: str, connection: str) -> None:
        """Note a member's connection; the subject's first one is pushed as a join."""
        connections = self._present.setdefault(channel, {}).setdefault((tenant, subject), set())
        first = not connections
        connections.add(connection)
        if first:
            self._deliver.presence(Presence(channel, "join", tenant, subject))

    async def leave(self, channel: str, tenant: str, subject: str, connection: str) -> None:
        """Forget a member's connection; the subject's last one is pushed as a leave."""
        members = self._present.get(channel, {})
        connections = members.get((tenant, subject))
        if connections is None or connection not in connections:
            return
        connections.remove(connection)
        if connections:
            return
        del members[tenant, subject]
        if not members:
            del self._present[channel]
        self._deliver.presence(Presence(channel, "leave", tenant, subject))

    async def members(self, channel: str) -> Mapping[tuple[str, str], int]:
        """Count the connections of each (tenant, subject)."""
        return {member: len(connections) for member, connections in self._present.get(channel, {}).items()}

    # -------------------------------------------------------------------------------------------- people

    async def send(self, direct: Direct) -> int:
        """Send to a user; answer how many connections got it."""
        return self._deliver.direct(direct)

    async def broadcast(self, broadcast: Broadcast) -> None:
        """Send to a tenant."""
        self._deliver.broadcast(broadcast)


def _new_epoch() -> str:
    return secrets.token_urlsafe(9)
