"""The load generator: an order on standard input, one outcome on standard output; `bench` starts it, pinned to a core of its own.

    python benchmarks/generator.py < order.json

It must be quicker than what it measures, or it measures itself: so there is no event loop and no WebSocket library, but epoll, one
read into one buffer for each socket that is ready, a look at the header, and frames that were made beforehand. It reads all that is
ready before it sends again, so that a server finds as many sockets ready as it would with many independent clients.

Owns the loops of the three loads. Refuses to own framing (`client_connection`) and the choice of loads (`workloads`).
"""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import os
import resource
import select
import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import TypeVar, assert_never

import msgspec
from client_connection import FIN, ClientConnection, ConnectionFailedError, upgrade_request
from orders import Await, Connect, Exchange, FanOut, Order, Outcome, Send
from process_figures import all_cores_us, cpu_us, resident_kb

EVENTS = 256
"""Sockets that one look at epoll gives at most."""
OPENING_S = 60.0
PATIENCE_S = 0.05
"""Without anything to read for so long, it looks whether something else is due."""
STALLED_S = 3.0
"""Without a message for so long, what is still missing counts as lost."""
SETTLE_S = 0.3
STRETCH_S = 0.1
"""How often it looks whether a storm is over."""
BUFFER_BYTES = 1 << 20
MAX_PREPARED = 4_000
"""Frames made beforehand for each connection of an exchange: 400,000 of them take 130 MB."""
WARM_UP_EXCHANGES = 500
QUICKEST_PER_S = 400_000
"""Replies a second that no server of one core exceeds."""

clock = time.perf_counter
Found = TypeVar("Found")


@dataclass(slots=True)
class Tally:
    """What one stretch of a load came to."""

    due: int = 0
    units: int = 0
    latencies_s: list[float] = field(default_factory=list)


def own_s() -> float:
    """Give the processor time of this process, and of those of its own that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


@dataclass(slots=True)
class Meter:
    """Processor time of the server, of this process, and of everything on the machine, between two moments."""

    pid: int
    seconds: float = 0.0
    server_us: float = 0.0
    own_us: float = 0.0
    all_us: float = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Measure what happens inside."""
        own, all_cores, server, began = own_s(), all_cores_us(), cpu_us(self.pid), clock()
        yield
        self.seconds = clock() - began
        self.server_us = cpu_us(self.pid) - server
        self.all_us = all_cores_us() - all_cores
        self.own_us = (own_s() - own) * 1e6

    def outcome(self, units: int, lost: int = 0, p99_ms: float | None = None, idle_kb: float | None = None) -> Outcome:
        """Give the figures for so many units."""
        return Outcome(
            units=units,
            seconds=self.seconds,
            cpu_us=self.server_us / max(units, 1),
            server_busy=self.server_us / 1e6 / self.seconds,
            generator_busy=self.own_us / 1e6 / self.seconds,
            others_busy=max(0.0, self.all_us - self.server_us - self.own_us) / 1e6 / self.seconds,
            lost=lost,
            p99_ms=p99_ms,
            idle_kb=idle_kb,
        )


class Crowd:
    """The connections of one run, on one epoll.

    Args:
        order: The run.
    """

    def __init__(self, order: Order) -> None:
        self.order = order
        self.epoll = select.epoll()
        self.by_fd: dict[int, ClientConnection] = {}
        self.buffer = bytearray(BUFFER_BYTES)
        self.whole = bytearray()
        self._counted: set[int] = set()
        self._request = upgrade_request(order.port, order.conversation)

    def open(self, count: int, steps: tuple[Send | Await, ...], at_once: int = 64) -> list[ClientConnection]:
        """Open connections, so many at once, until each has gone all its steps.

        Raises:
            ConnectionFailedError: One was refused, or they were not all there within `OPENING_S`.
        """
        arriving: set[int] = set()
        opened: list[ClientConnection] = []
        deadline = clock() + OPENING_S
        while arriving or len(opened) < count:
            while len(arriving) < at_once and len(opened) < count:
                connection = ClientConnection(self.order.port, self.order.conversation, self._request, steps)
                opened.append(connection)
                arriving.add(connection.fd)
                self.by_fd[connection.fd] = connection
                self.epoll.register(connection.fd, select.EPOLLIN | select.EPOLLOUT)
            for fd, events in self.epoll.poll(1.0, EVENTS):
                connection = self.by_fd[fd]
                if events & select.EPOLLOUT:
                    self.epoll.modify(fd, select.EPOLLIN)
                    connection.begin()
                else:
                    connection.receive()
                    if connection.ready:
                        arriving.discard(fd)
            if clock() > deadline:
                raise ConnectionFailedError(f"{len(arriving)} connections did not arrive within {OPENING_S:.0f} s")
        return opened

    def by_number(self, each: Iterable[Found]) -> list[Found]:
        """Put what belongs to the connections at the indexes of their descriptors: a list is found in quicker than a dictionary."""
        found = dict(zip(self.by_fd, each, strict=True))
        filling = next(iter(found.values()))
        return [found.get(fd, filling) for fd in range(max(found) + 1)]

    def find_whole(self, counted: Sequence[ClientConnection]) -> bytearray:
        """Note, by descriptor, where the next byte begins a message that counts; `count` keeps the notes up to date."""
        self.whole = bytearray(max(self.by_fd) + 1)
        self._counted = {connection.fd for connection in counted}
        for connection in counted:
            self.whole[connection.fd] = connection.whole
        return self.whole

    def count(self, fd: int, size: int) -> int:
        """Count the messages of one read by their headers: several, or parts of them, or what the publisher is answered."""
        if size == 0:
            raise ConnectionFailedError("the server ended the connection")
        connection = self.by_fd[fd]
        messages = connection.count(self.buffer, size)
        if fd not in self._counted:
            return 0
        self.whole[fd] = connection.whole
        return messages

    def idle(self, seconds: float) -> None:
        """Wait, and answer pings."""
        until = clock() + seconds
        while (left := until - clock()) > 0:
            for fd, _ in self.epoll.poll(left, EVENTS):
                self.by_fd[fd].receive()

    def close(self) -> None:
        """End all connections."""
        for connection in self.by_fd.values():
            connection.close()
        self.epoll.close()


class Audience(Crowd):
    """Subscribers and their publisher."""

    def gather(self, subscribers: int) -> None:
        """Open all of them."""
        conversation = self.order.conversation
        self.subscribers = self.open(subscribers, conversation.arrive)
        [self.publisher] = self.open(1, conversation.arrive_to_publish)
        self.publications = self.publisher.next_frames()

    def deliver(self, seconds: float, outstanding: int = 1, rate_per_s: int = 0) -> Tally:
        """Publish for so long, and return when all is delivered.

        The next publication goes out as soon as fewer than `outstanding` are on their way. With a rate it goes out when its time has
        come, and each delivery's latency is taken from when its publication was sent: since deliveries come in order on each
        connection, the number of a delivery tells its publication.
        """
        poll, buffer, count, whole = self.epoll.poll, self.buffer, self.count, self.find_whole(self.subscribers)
        receive = self.by_number(connection.socket.recv_into for connection in self.by_fd.values())
        # Where messages have one size, a frame of another one holds more, or parts.
        first_byte, unit = FIN | self.order.conversation.opcode, self.order.conversation.unit_bytes
        subscribers, units, seen = len(self.subscribers), 0, 0
        published_at: list[float] = []
        delivered = [0] * len(receive)
        latencies: list[float] = []
        began = now = progress = clock()
        end = began + seconds
        while now < end or units < len(published_at) * subscribers:
            # How far to read before anything else is to be done: to the next publication, or to the last delivery.
            until, wait_s = len(published_at) * subscribers, PATIENCE_S
            if now < end and rate_per_s:
                self._publish(int((now - began) * rate_per_s) + 1 - len(published_at), published_at)
                # In whole milliseconds, as epoll counts, and never beyond the next publication.
                wait_s = max(int((began + len(published_at) / rate_per_s - clock()) * 1e3), 0) / 1e3
                until = units + 1
            elif now < end:
                self._publish(units // subscribers + outstanding - len(published_at), published_at)
                until = (len(published_at) - outstanding + 1) * subscribers
            while units < until and (ready := poll(wait_s, EVENTS)):
                for fd, _ in ready:
                    size = receive[fd](buffer)
                    if (
                        buffer[1] == 126
                        and whole[fd]
                        and (buffer[2] << 8 | buffer[3]) + 4 == size
                        and buffer[0] == first_byte
                        and (not unit or size == unit + 4)
                    ):
                        messages = 1
                    else:
                        messages = 0 if unit or not whole[fd] else whole_frames(buffer, size, first_byte)
                        messages = messages or count(fd, size)
                    units += messages
                    if rate_per_s:
                        at, first = clock(), delivered[fd]
                        delivered[fd] = first + messages
                        latencies += [at - sent for sent in published_at[first : first + messages]]
            now = clock()
            if units != seen:
                seen, progress = units, now
            elif now - progress > STALLED_S:
                break
        return Tally(len(published_at) * subscribers, units, latencies)

    def _publish(self, count: int, published_at: list[float]) -> None:
        """Publish so many at once, in one write: one after the other they would be a pace of this process, and not of the server."""
        if count > 0:
            published_at += [clock()] * count
            self.publisher.send_bytes(b"".join(itertools.islice(self.publications, count)))


class Callers(Crowd):
    """Connections that ask and are answered."""

    def gather(self, load: Exchange) -> None:
        """Open them, and make all the frames that they may send: what is measured is sending and receiving alone."""
        self.callers = self.open(load.connections, self.order.conversation.arrive)
        prepared = WARM_UP_EXCHANGES + min(MAX_PREPARED, int(self.order.seconds * QUICKEST_PER_S / load.connections))
        self.frames = {
            caller.fd: iter(list(itertools.islice(caller.next_frames(), prepared + load.in_flight)))
            for caller in self.callers
        }
        self.send = self.by_number(caller.socket.send for caller in self.callers)
        self.used_up = False

    def exchange(self, in_flight: int, seconds: float, at_most: int) -> Tally:
        """Keep so many requests in flight on each connection until the time or the frames are over; await the replies."""
        poll, buffer, count, whole = self.epoll.poll, self.buffer, self.count, self.find_whole(self.callers)
        receive = self.by_number(connection.socket.recv_into for connection in self.callers)
        first_byte, reply = FIN | self.order.conversation.opcode, self.order.conversation.reply
        units, due = 0, [(connection.fd, in_flight) for connection in self.callers]
        asked = self._ask(due)
        now = progress = clock()
        end = now + seconds
        while units < asked:
            due = []
            for fd, _ in poll(PATIENCE_S, EVENTS):
                size = receive[fd](buffer)
                # One look at each read: a refusal would come again and again, and be seen.
                if buffer.find(reply, 0, size) < 0:
                    self._explain(fd, size)
                length = buffer[1]
                if length == 126:
                    length = (buffer[2] << 8 | buffer[3]) + 2
                one = length + 2 == size and whole[fd] and buffer[0] == first_byte
                replies = 1 if one else count(fd, size)
                if replies:
                    units += replies
                    due.append((fd, replies))
            now = clock()
            if due:
                progress = now
            elif now - progress > STALLED_S:
                break
            if now < end and asked < at_most and not self.used_up:
                asked += self._ask(due)
        return Tally(asked, units)

    def _ask(self, due: list[tuple[int, int]]) -> int:
        """Send as many requests as were answered, on each connection; give how many there were."""
        asked = 0
        for fd, count in due:
            if count == 1:
                request = next(self.frames[fd], b"")
                sent = 1 if request else 0
            else:
                requests = list(itertools.islice(self.frames[fd], count))
                request, sent = b"".join(requests), len(requests)
            asked += sent
            if sent < count:
                self.used_up = True
            if self.send[fd](request) != len(request):
                raise ConnectionFailedError("the server does not read: the socket's buffer is full")
        return asked

    def _explain(self, fd: int, size: int) -> None:
        """Take what is no reply for a ping or a part of a reply, or fail."""
        if size == 0:
            raise ConnectionFailedError("the server ended the connection")
        if self.whole[fd] and self.buffer[0] & 0xF < 8 and size > 2:
            raise ConnectionFailedError(f"not a reply: {bytes(self.buffer[:size])!r}")


def whole_frames(buffer: bytearray, size: int, first_byte: int) -> int:
    """Count the frames of a read that holds nothing but whole ones of 126 to 65,535 octets, as most do; 0 for any other."""
    at = frames = 0
    while at + 4 <= size:
        if buffer[at] != first_byte or buffer[at + 1] != 126:
            return 0
        at += 4 + (buffer[at + 2] << 8 | buffer[at + 3])
        frames += 1
    return frames if at == size else 0


def percentile_99_ms(latencies_s: Sequence[float]) -> float:
    """Give the latency that 99 of 100 stay below."""
    return statistics.quantiles(latencies_s, n=100)[98] * 1e3


def deliver_in_a_storm(audience: Audience, load: FanOut) -> Tally:
    """Publish at the load's pace for as long as others take to connect, all at once, out of a process of their own."""
    fork = multiprocessing.get_context("fork")
    told, tell = fork.Pipe(duplex=False)
    storm = fork.Process(target=come_at_once, args=(audience.order, load.newcomers, tell), daemon=True)
    storm.start()
    tell.close()
    tally = Tally()
    while not told.poll():
        stretch = audience.deliver(STRETCH_S, load.outstanding, load.rate_per_s)
        tally.due += stretch.due
        tally.units += stretch.units
        tally.latencies_s += stretch.latencies_s
    try:
        told.recv_bytes()
    except EOFError:
        raise ConnectionFailedError(f"not all of {load.newcomers} connections arrived") from None
    finally:
        storm.kill()
        storm.join()
    return tally


def come_at_once(order: Order, newcomers: int, tell: Connection) -> None:
    """Connect, say when all have arrived, and stay; whenever the other process wants the core, it has it."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    crowd = Crowd(order)
    crowd.open(newcomers, order.conversation.arrive_to_publish, at_once=newcomers)
    tell.send_bytes(b"arrived")
    crowd.idle(OPENING_S)


def fan_out(order: Order, load: FanOut) -> Outcome:
    meter = Meter(order.pid)
    with closing(Audience(order)) as audience:
        audience.gather(load.subscribers)
        audience.idle(SETTLE_S)
        audience.deliver(order.warm_up_s, load.outstanding)
        with meter.running():
            if load.newcomers:
                tally = deliver_in_a_storm(audience, load)
            else:
                tally = audience.deliver(order.seconds, load.outstanding, load.rate_per_s)
    p99_ms = percentile_99_ms(tally.latencies_s) if tally.latencies_s else None
    return meter.outcome(tally.units, tally.due - tally.units, p99_ms)


def exchange(order: Order, load: Exchange) -> Outcome:
    meter = Meter(order.pid)
    with closing(Callers(order)) as callers:
        callers.gather(load)
        callers.idle(SETTLE_S)
        callers.exchange(load.in_flight, order.warm_up_s, WARM_UP_EXCHANGES * load.connections)
        with meter.running():
            tally = callers.exchange(load.in_flight, order.seconds, sys.maxsize)
    return meter.outcome(tally.units, tally.due - tally.units)


def connect(order: Order, load: Connect) -> Outcome:
    meter = Meter(order.pid)
    before_kb = resident_kb(order.pid)
    with closing(Crowd(order)) as crowd:
        with meter.running():
            crowd.open(load.connections, order.conversation.arrive, load.at_once)
        crowd.idle(load.hold_s)
        idle_kb = (resident_kb(order.pid) - before_kb) / load.connections
    return meter.outcome(load.connections, idle_kb=idle_kb)


def carry_out(order: Order) -> Outcome:
    """Run a load.

    Raises:
        ConnectionFailedError: The server refused, ended a connection, or answered with something else than replies.
    """
    match order.load:
        case FanOut():
            return fan_out(order, order.load)
        case Exchange():
            return exchange(order, order.load)
        case Connect():
            return connect(order, order.load)
        case never:
            assert_never(never)


def main() -> int:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    gc.disable()  # a pause of the generator would be one of the server's figures
    try:
        outcome = carry_out(order)
    except (ConnectionFailedError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    sys.stdout.buffer.write(msgspec.json.encode(outcome) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
