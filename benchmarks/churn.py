"""Clients that come and go: each arrives, subscribes, publishes, receives, and leaves in one of three ways.

Owns their lives. Refuses to own what is looked at meanwhile, and what it should be (`soak`).
"""

from __future__ import annotations

import contextlib
import enum
import heapq
import itertools
import random
import select
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from client_connection import CLOSE, ClientConnection, ConnectionFailedError, client_frame, upgrade_request
from gateway_server import WELCOME, Login
from orders import Await, Conversation, Send

ROOMS = tuple(b"room:acme:%d" % number for number in range(20))
STAY_S = (0.5, 8.0)
PUBLISH_EVERY_S = (0.2, 1.5)
PAYLOAD_BYTES = (16, 2_048)
STALL_S = 20.0
"""How long a client that does not read stays, though the gateway may have cut it off long before."""
STALLED_BUFFER_BYTES = 4_096
LOUD_ROOM = b"room:acme:loud"
LOUD_BYTES, LOUD_EVERY_S, LOUD_STAY_S = 30_000, 0.1, 60.0
"""What is published for half of those that do not read, so that more waits for them than the gateway allows."""
NORMAL_CLOSURE = client_frame(CLOSE, (1000).to_bytes(2, "big"))
EVENTS = 256


class Way(enum.Enum):
    """How a client goes."""

    GOODBYE = "with a close frame"
    RESET = "by a reset"
    STALL = "by not reading any more"


WAYS = {Way.GOODBYE: 0.6, Way.RESET: 0.35, Way.STALL: 0.05}


@dataclass(slots=True)
class Client:
    """One client, and what it is going to do."""

    connection: ClientConnection
    way: Way
    frames: Iterator[bytes]
    publish_every_s: tuple[float, float]
    stay_s: float
    goes: bool = False


class Churn:
    """The clients of one gateway.

    Args:
        port: Where it listens.
        login: The token that clients come with; a fresher one may take its place.
        clients: How many there are at any time.
        chance: Who does what when.
    """

    def __init__(self, port: int, login: Login, clients: int, chance: random.Random) -> None:
        self.login = login
        self.arrived = 0
        self.delivered = 0
        self.left: Counter[Way] = Counter()
        self.thrown_out: Counter[str] = Counter()
        self._port = port
        self._clients = clients
        self._chance = chance
        self._epoll = select.epoll()
        self._here: dict[int, Client] = {}
        self._loud: Client | None = None
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def go_on(self, seconds: float) -> None:
        """Let clients come and go for so long."""
        until = time.monotonic() + seconds
        while (now := time.monotonic()) < until:
            while len(self._here) < self._clients:
                self._admit(self._visitor())
            if self._loud is None or self._loud.connection.closed:
                self._loud = self._admit(self._loud_one())
            while self._agenda and self._agenda[0][0] <= now:
                heapq.heappop(self._agenda)[2]()
            for fd, events in self._epoll.poll(0.01, EVENTS):
                if fd in self._here:
                    self._hear(self._here[fd], events)

    def stop(self) -> None:
        """Let all of them go at once."""
        for client in list(self._here.values()):
            self._forget(client)
        self._agenda.clear()

    def _visitor(self) -> Client:
        [way] = self._chance.choices(list(WAYS), list(WAYS.values()))
        room = self._chance.choice(ROOMS)
        stay_s, buffer_bytes = self._chance.uniform(*STAY_S), None
        if way is Way.STALL:
            room = self._chance.choice((room, LOUD_ROOM))
            stay_s, buffer_bytes = STALL_S, STALLED_BUFFER_BYTES
        subscribe = Send(b'{"id":999999,"action":"channel.subscribe","channel":"%b"}' % room)
        arrive = (WELCOME, subscribe, Await(b'"reply"'))
        connection = self._connection(room, self._chance.randint(*PAYLOAD_BYTES), arrive, buffer_bytes)
        return Client(connection, way, connection.next_frames(), PUBLISH_EVERY_S, stay_s)

    def _loud_one(self) -> Client:
        connection = self._connection(LOUD_ROOM, LOUD_BYTES, (WELCOME,), None)
        return Client(connection, Way.GOODBYE, connection.next_frames(), (LOUD_EVERY_S, LOUD_EVERY_S), LOUD_STAY_S)

    def _connection(
        self, room: bytes, size: int, arrive: tuple[Send | Await, ...], buffer_bytes: int | None
    ) -> ClientConnection:
        conversation = Conversation(
            path="/ws",
            headers=(("Authorization", f"Bearer {self.login.access_token}"),),
            template=b'{"id":{N},"action":"channel.publish","channel":"%b","data":"%b"}' % (room, b"x" * size),
        )
        request = upgrade_request(self._port, conversation)
        return ClientConnection(self._port, conversation, request, arrive, buffer_bytes)

    def _admit(self, client: Client) -> Client:
        self._here[client.connection.fd] = client
        self._epoll.register(client.connection.fd, select.EPOLLIN | select.EPOLLOUT)
        self.arrived += 1
        return client

    def _hear(self, client: Client, events: int) -> None:
        connection = client.connection
        with self._losing(client):
            if events & select.EPOLLOUT:
                self._epoll.modify(connection.fd, select.EPOLLIN)
                connection.begin()
                return
            was_ready = connection.ready
            self.delivered += connection.receive()
            if connection.ready and not was_ready:
                self._settle(client)

    def _settle(self, client: Client) -> None:
        """Plan the rest of a life, now that the client has arrived."""
        if client.way is Way.STALL:
            self._epoll.unregister(client.connection.fd)
        else:
            self._later(self._chance.uniform(*client.publish_every_s), lambda: self._publish(client))
        self._later(client.stay_s, lambda: self._leave(client))

    def _later(self, delay_s: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (time.monotonic() + delay_s, next(self._numbers), act))

    def _publish(self, client: Client) -> None:
        if client.goes or client.connection.closed:
            return
        with self._losing(client):
            client.connection.send_bytes(next(client.frames))
            self._later(self._chance.uniform(*client.publish_every_s), lambda: self._publish(client))

    def _leave(self, client: Client) -> None:
        if client.connection.closed:
            return
        client.goes = True
        self.left[client.way] += 1
        if client.way is Way.GOODBYE:
            with self._losing(client):
                client.connection.send_bytes(NORMAL_CLOSURE)  # the answer to it ends the connection
        else:
            self._forget(client)

    @contextlib.contextmanager
    def _losing(self, client: Client) -> Iterator[None]:
        """Take the end of a connection for what it is: the end of a life, expected or not."""
        try:
            yield
        except (ConnectionFailedError, OSError) as error:
            if not client.goes:
                self.thrown_out[str(error)] += 1
            self._forget(client)

    def _forget(self, client: Client) -> None:
        self._here.pop(client.connection.fd, None)
        client.connection.close()
