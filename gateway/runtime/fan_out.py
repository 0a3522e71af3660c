"""From one message to many connections: what a turn of the event loop brings is joined, encoded and framed once, and written to each.

Owns what waits to be delivered, the order in which audiences are served, and the share of a turn that they get. Refuses to own who
belongs to an audience (the hub), what a connection's signature adds, and what becomes of a peer that does not read (the transport).

A message does not leave in the call that brings it. It waits for the end of the turn, since one write of several frames costs
what one of a single frame does: nearly all of the cost of a delivery is the system call. So whoever comes to an audience, leaves
it, or is answered about it while something waits has to be given what is due, or messages would be missing or come twice.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Protocol

from gateway.core.frames import Encoding, SharedPush
from gateway.core.wire_frames import Framing
from gateway.runtime.ports import Metrics

TURN_SHARE = 512
"""Deliveries of one turn, about two milliseconds: beyond them others get their turn before the rest is delivered."""

MAX_WAITING = 256
"""Messages that wait for one audience: whoever brings more is asked to wait. For one connection, they are sent at once."""

MOST_WAITING = 16 * MAX_WAITING
"""Where senders cannot wait: before one more is taken all are delivered, at its sender's expense."""


class Port(Protocol):
    """The end of a connection that octets are written to as they are."""

    def write(self, octets: bytes) -> None:
        """Write whole frames. Never waits, never raises, and ends nothing before the next turn of the loop."""
        ...


class Recipient(Protocol):
    """A connection, as a delivery sees it."""

    @property
    def framing(self) -> Framing | None:
        """Give how octets that are the same for many are written to it; None where each gets its own. Never changes."""
        ...

    @property
    def port(self) -> Port:
        """Give where they are written; not asked where there is no framing."""
        ...

    @property
    def identity(self) -> tuple[str, str]:
        """Give tenant and subject."""
        ...

    def may_see_presence(self, channel: str) -> bool:
        """Ask the policy whether joins and leaves of the channel may be shown."""
        ...

    def deliver(self, batch: Batch) -> None:
        """Send what is signed, or written in another way, for this connection alone. Ends nothing before the next turn."""
        ...


class Batch:
    """Pushes that go out together.

    Args:
        pushes: In their order.
    """

    __slots__ = ("_bodies", "_octets", "pushes")

    def __init__(self, pushes: Sequence[SharedPush]) -> None:
        self.pushes = pushes
        self._bodies: dict[Encoding, list[bytes]] = {}
        self._octets: dict[Framing, bytes] = {}

    def bodies(self, encoding: Encoding) -> list[bytes]:
        """Give the encoded frames, made once for all recipients of that encoding."""
        bodies = self._bodies.get(encoding)
        if bodies is None:
            bodies = self._bodies[encoding] = [push.body(encoding) for push in self.pushes]
        return bodies

    def octets(self, framing: Framing) -> bytes:
        """Give what is written on the wire, made once for all recipients of that framing."""
        octets = self._octets.get(framing)
        if octets is None:
            octets = self._octets[framing] = framing.frames(self.bodies(framing.encoding))
        return octets


def _send(batch: Batch, recipient: Recipient, metrics: Metrics) -> None:
    """Send a batch to one connection, and count it."""
    if not batch.pushes:
        return
    framing = recipient.framing
    if framing is None:
        recipient.deliver(batch)
    else:
        octets = batch.octets(framing)
        recipient.port.write(octets)
        metrics.traffic.sent += len(octets)
    metrics.delivered(len(batch.pushes))


_Group = dict[Recipient, Port | None]
"""Connections of one framing, and where it is written to them."""


class _Part:
    """The connections of one framing that are still to get a batch."""

    __slots__ = ("batch", "framing", "left")

    def __init__(self, batch: Batch, framing: Framing | None, left: _Group) -> None:
        self.batch = batch
        self.framing = framing
        self.left = left

    def serve(self, share: int, metrics: Metrics) -> int:
        """Deliver to at most `share` connections; tell to how many."""
        left = self.left
        count = min(len(left), share)
        take = left.popitem
        if self.framing is None:
            for _ in range(count):
                take()[0].deliver(self.batch)
        else:
            octets = self.batch.octets(self.framing)
            for _ in range(count):
                take()[1].write(octets)  # type: ignore[union-attr] # where there is a framing there is a port
            metrics.traffic.sent += len(octets) * count
        metrics.delivered(len(self.batch.pushes) * count)
        return count


class Audience:
    """Connections that get the same messages: the subscribers of a channel, the members of a tenant.

    What is pushed waits for the next turn, and goes to those that were there when it was pushed. A large audience is served in
    parts; messages that come meanwhile wait for the next round, so that each connection gets all of them in their order.

    Args:
        metrics: Counts what is delivered.
        channel: The channel, where that is what brings them together; presence is told of channels only.
    """

    __slots__ = ("_channel", "_groups", "_late", "_metrics", "_parts", "_waiting", "queued")

    def __init__(self, metrics: Metrics, channel: str = "") -> None:
        self._metrics = metrics
        self._channel = channel
        self._groups: dict[Framing | None, _Group] = {}
        self._waiting: list[SharedPush] = []
        # Who came, or was given what was due, while something waited: from which place on it is theirs.
        self._late: dict[Recipient, int] = {}
        self._parts: list[_Part] = []
        self.queued = False
        """Whether the fan-out is going to serve it."""

    # -------------------------------------------------------------------------------------------- who is in it

    def __len__(self) -> int:
        return sum(map(len, self._groups.values()))

    def __contains__(self, recipient: Recipient) -> bool:
        return recipient in self._groups.get(recipient.framing, ())

    def __iter__(self) -> Iterator[Recipient]:
        for group in self._groups.values():
            yield from group

    def add(self, recipient: Recipient) -> None:
        """Deliver to a connection what is pushed from now on."""
        framing = recipient.framing
        group = self._groups.get(framing)
        if group is None:
            group = self._groups[framing] = {}
        group[recipient] = None if framing is None else recipient.port
        if self._waiting:
            self._late[recipient] = len(self._waiting)

    def remove(self, recipient: Recipient) -> None:
        """Deliver nothing more to a connection, not even what waits."""
        framing = recipient.framing
        group = self._groups[framing]
        del group[recipient]
        if not group:
            del self._groups[framing]
        self._late.pop(recipient, None)
        for part in self._parts:
            part.left.pop(recipient, None)

    # -------------------------------------------------------------------------------------------- what they get

    @property
    def idle(self) -> bool:
        """Tell whether nothing waits and nothing is under way."""
        return not self._waiting and not self._parts

    @property
    def waiting(self) -> int:
        """Tell how many messages wait."""
        return len(self._waiting)

    def push(self, shared: SharedPush) -> None:
        """Have a push wait for the next turn."""
        self._waiting.append(shared)

    def due(self, recipient: Recipient) -> list[SharedPush]:
        """Give what a connection is still to get of all that was pushed until now. It is the caller's to send it, and counts as sent."""
        pushes: list[SharedPush] = []
        for part in self._parts:
            if recipient in part.left:
                del part.left[recipient]
                pushes += part.batch.pushes
        start = self._late.get(recipient, 0)
        if start < len(self._waiting):
            self._late[recipient] = len(self._waiting)
            pushes += self._visible(recipient, self._waiting[start:])
        self._metrics.delivered(len(pushes))
        return pushes

    def serve(self, share: int) -> int:
        """Deliver to at most `share` connections; tell to how many. Each call with a share above 0 brings the end nearer."""
        if not self._parts:
            self._begin()
        served = 0
        while self._parts and served < share:
            part = self._parts[-1]
            served += part.serve(share - served, self._metrics)
            if not part.left:
                self._parts.pop()
        return served

    def _begin(self) -> None:
        """Let what waits go out to those that it is for."""
        pushes, self._waiting = self._waiting, []
        late, self._late = self._late, {}
        groups = {framing: group.copy() for framing, group in self._groups.items()}
        by_start: dict[int, dict[Framing | None, _Group]] = {0: groups}
        for recipient, start in late.items():
            framing = recipient.framing
            port = groups[framing].pop(recipient)
            by_start.setdefault(start, {}).setdefault(framing, {})[recipient] = port
        for start, some in by_start.items():
            if start < len(pushes):
                self._parts += self._parts_of(pushes[start:], some)

    def _parts_of(self, pushes: list[SharedPush], groups: dict[Framing | None, _Group]) -> list[_Part]:
        """Part an audience by framing, and by what each connection may see: nearly always all, or no presence at all."""
        everything = Batch(pushes)
        told_of = {push.about for push in pushes if push.about is not None}
        if not told_of:
            return [_Part(everything, framing, group) for framing, group in groups.items() if group]
        messages = Batch([push for push in pushes if push.about is None])
        parts: dict[tuple[Framing | None, Batch], _Part] = {}
        for framing, group in groups.items():
            for recipient, port in group.items():
                if not recipient.may_see_presence(self._channel):
                    batch = messages
                elif recipient.identity in told_of:
                    batch = Batch(self._visible(recipient, pushes))
                else:
                    batch = everything
                if not batch.pushes:
                    continue
                part = parts.get((framing, batch))
                if part is None:
                    part = parts[framing, batch] = _Part(batch, framing, {})
                part.left[recipient] = port
        return list(parts.values())

    def _visible(self, recipient: Recipient, pushes: list[SharedPush]) -> list[SharedPush]:
        """Give what of `pushes` a connection is to see."""
        if all(push.about is None for push in pushes):
            return pushes
        identity, sees = recipient.identity, recipient.may_see_presence(self._channel)
        return [push for push in pushes if push.about is None or (sees and push.about != identity)]


class FanOut:
    """Serves the audiences of a node, a share in each turn, one after the other.

    Args:
        metrics: Counts what is delivered.
        before_early: Called before anything is delivered within the call that pushes it: what has been answered and not been sent
            yet has to go before.
        on_room: Called when senders that were asked to wait may go on.
    """

    def __init__(self, metrics: Metrics, before_early: Callable[[], None], on_room: Callable[[], None]) -> None:
        self._metrics = metrics
        self._before_early = before_early
        self._on_room = on_room
        self._busy: deque[Audience] = deque()
        self._alone: dict[Recipient, list[SharedPush]] = {}
        self._armed = False
        self._crowded: set[Audience] = set()
        self.wait = False
        """Whether, since somebody last set it to false, a message has come to an audience that has enough of them waiting."""

    def push(self, audience: Audience, shared: SharedPush) -> None:
        """Deliver to an audience in the next turn."""
        if audience.waiting >= MAX_WAITING:
            self.wait = True
            self._crowded.add(audience)
            if audience.waiting >= MOST_WAITING:
                self._before_early()
                while not audience.idle:
                    audience.serve(TURN_SHARE)
        audience.push(shared)
        if not audience.queued:
            audience.queued = True
            self._busy.append(audience)
            self._arm()

    def push_to(self, recipient: Recipient, shared: SharedPush) -> None:
        """Deliver to one connection in the next turn."""
        waiting = self._alone.setdefault(recipient, [])
        if len(waiting) >= MAX_WAITING:
            self._before_early()
            self._send_alone(recipient)
            waiting = self._alone[recipient] = []
        waiting.append(shared)
        self._arm()

    def due(self, recipient: Recipient) -> list[SharedPush]:
        """Give all that waits for a connection; it is the caller's to send it, and counts as sent."""
        alone = self._alone.pop(recipient, [])
        self._metrics.delivered(len(alone))
        return [push for audience in self._busy if recipient in audience for push in audience.due(recipient)] + alone

    def forget(self, recipient: Recipient) -> None:
        """Deliver nothing more to a connection that audiences have let go."""
        self._alone.pop(recipient, None)

    def _send_alone(self, recipient: Recipient) -> None:
        _send(Batch(self._alone.pop(recipient)), recipient, self._metrics)

    def _arm(self) -> None:
        if not self._armed:
            self._armed = True
            asyncio.get_running_loop().call_soon(self._serve)

    def _serve(self) -> None:
        """Serve a turn's share. Whatever a connection does, the others are served in this turn or in the next."""
        self._armed = False
        busy, alone = self._busy, self._alone
        try:
            # Half of the share at most: many messages to single connections must not keep audiences waiting, nor these them.
            served = min(len(alone), TURN_SHARE // 2)
            for recipient in list(islice(alone, served)):
                self._send_alone(recipient)
            while busy and served < TURN_SHARE:
                audience = busy[0]
                busy.rotate(-1)
                served += audience.serve(TURN_SHARE - served)
                if audience.idle:
                    audience.queued = False
                    busy.pop()
            if self._crowded:
                self._crowded = {audience for audience in self._crowded if audience.waiting}
                if not self._crowded:
                    self._on_room()
        finally:
            if busy or alone:
                self._arm()
