"""The client that stays connected: logs in, comes back by the rules, and brings its subscriptions with it.

Owns tokens over their life, subscriptions with their positions, and the stream of events. Refuses to own frames and sockets:
see `connection`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self

import msgspec

from gateway.client.authorization import Authorization, Login, Ticket, Tokens
from gateway.client.connection import COMMAND_TIMEOUT_S, Connection, Observe
from gateway.client.errors import (
    ClientError,
    ConnectionEndedError,
    LoginRefusedError,
    PushesNotReadError,
    UnreachableError,
    UpgradeRefusedError,
)
from gateway.client.events import Connected, Disconnected, Event, Position, Subscribed
from gateway.client.held_tokens import HeldTokens
from gateway.client.reconnection import (
    ABNORMAL,
    STABLE_AFTER_S,
    Credential,
    Return,
    back_off_s,
    next_step,
)
from gateway.client.subscriptions import Subscriptions
from gateway.core.frames import (
    DrainingPush,
    ErrorFrame,
    ExpiringPush,
    Push,
    UnsubscribedPush,
    Welcome,
)
from gateway.core.handshake import SUBPROTOCOLS

MAX_EVENTS = 10_000
"""Events that wait for `events()`; one more ends the connection, since a gap must never be silent."""

_NORMAL = 1000
_RETRYABLE_STATUS = frozenset({429, 502, 503, 504})


class GatewayClient:
    """A connection to the gateway that is made again when it ends. An asynchronous context manager.

    Args:
        url: Where the gateway is: `http(s)://…` or `ws(s)://…`.
        login: Who connects: `PasswordLogin`, `ServiceLogin` or `TokenLogin`.
        signed: Whether every frame in both directions is signed.
        encoding: `json` or `msgpack`.
        reconnect: Whether to come back by the rules of the protocol; without, the first close is the end.
        ticket: Whether to connect with a ticket in the URL rather than the token in a header.
        observe: Called with the direction and the plain form of every frame.
        authorization: The HTTP side, for a client of your own; it is not closed here.
        tls: What certificates count, for `https` and `wss`; the system's by default.
        dice: Where the jitter of waits comes from.
    """

    def __init__(
        self,
        url: str,
        login: Login,
        *,
        signed: bool = False,
        encoding: str = "json",
        reconnect: bool = True,
        ticket: bool = False,
        observe: Observe | None = None,
        authorization: Authorization | None = None,
        tls: ssl.SSLContext | None = None,
        dice: random.Random | None = None,
    ) -> None:
        self._url = url
        self._subprotocol = SUBPROTOCOLS[f"gateway.v1.{encoding}{'.signed' if signed else ''}"]
        self._reconnect = reconnect
        self._by_ticket = ticket
        self._observe = observe
        self._authorization = authorization or Authorization(url, tls=tls)
        self._tls = tls
        self._owns_authorization = authorization is None
        self._dice = dice or random.Random()  # noqa: S311 - jitter, not a secret
        self._tokens = HeldTokens(login, self._authorization)
        self._connection: Connection | None = None
        self._subscriptions = Subscriptions(self._emit)
        self._events: asyncio.Queue[Event | None] = asyncio.Queue(MAX_EVENTS + 1)
        self._connected = asyncio.Event()
        self._told_s: float | None = None
        self._end: ClientError | None = None
        self._expiring = asyncio.Event()
        self._lost: asyncio.Queue[str] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []

    # -------------------------------------------------------------------------------------------- life

    async def __aenter__(self) -> Self:
        """Log in and connect.

        Raises:
            LoginRefusedError: There was no token.
            ConnectionEndedError: The gateway closed at once.
            UnreachableError: Nothing answered.
        """
        try:
            self._connection = await self._open(Credential.SAME)
        except BaseException:
            await self._close_authorization()
            raise
        self._emit(Connected(self._connection.welcome, again=False))
        self._connected.set()
        self._tasks = [
            asyncio.create_task(self._stay(self._connection), name="gateway client: stay connected"),
            asyncio.create_task(self._renew_in_time(), name="gateway client: renew the token"),
            asyncio.create_task(self._take_up_again(), name="gateway client: take up lost subscriptions"),
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close with 1000; `events()` ends once it has given what is left."""
        self._finish(ConnectionEndedError(_NORMAL, ""))
        for task in self._tasks:
            task.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        if self._connection is not None:
            await self._connection.close()
        await self._close_authorization()
        for result in results:
            if isinstance(result, Exception):
                raise result

    @property
    def welcome(self) -> Welcome:
        """The first frame of the present connection, or of the last one."""
        if self._connection is None:
            raise RuntimeError("enter the client first: `async with GatewayClient(…) as client`")
        return self._connection.welcome

    @property
    def tokens(self) -> Tokens | None:
        """The tokens in use."""
        return self._tokens.current

    @property
    def subscriptions(self) -> tuple[str, ...]:
        """The channels that are taken up again after a reconnect."""
        return self._subscriptions.channels

    async def events(self) -> AsyncIterator[Event]:
        """Give pushes and what happens to the connection, in order, until the client is closed.

        Raises:
            ClientError: What ended the connection for good; nothing is raised after `close()`.
        """
        while (event := await self._events.get()) is not None:
            yield event
        self._events.put_nowait(None)  # whoever asks next learns of the end too
        if self._end is not None and not _is_normal(self._end):
            raise self._end

    # -------------------------------------------------------------------------------------------- commands

    async def command(
        self,
        action: str,
        channel: str | None = None,
        data: object = msgspec.UNSET,
        *,
        timeout_s: float = COMMAND_TIMEOUT_S,
    ) -> Any:  # noqa: ANN401 - the data of a reply is whatever the action gives
        """Send a command and give the data of its reply; wait for the connection where there is none just now.

        Raises:
            CommandRefusedError: The gateway answered with an error.
            ConnectionEndedError: The connection ended first: the command may have been carried out.
            TimeoutError: No answer came in time.
        """
        async with asyncio.timeout(timeout_s):
            connection = await self._standing()
            return await connection.command(action, channel, data, timeout_s=timeout_s)

    async def send_as_is(self, frame: object) -> None:
        """Send a frame or a batch without looking at it; its answers come to `observe` alone."""
        await (await self._standing()).send_as_is(frame)

    async def publish(self, channel: str, data: object) -> Position | None:
        """Publish to a channel; give the new position where it keeps history."""
        return _position(await self.command("channel.publish", channel, data))

    async def subscribe(self, channel: str, recover: Position | None = None) -> Subscribed:
        """Subscribe, from a position on where one is given, and stay subscribed over reconnects.

        Args:
            channel: Which one.
            recover: The last position seen; what was missed is in the answer, not in `events()`.
        """
        async with asyncio.timeout(COMMAND_TIMEOUT_S):
            return await self._subscriptions.subscribe(await self._standing(), channel, recover)

    async def unsubscribe(self, channel: str) -> None:
        """End a subscription."""
        self._subscriptions.forget(channel)
        await self.command("channel.unsubscribe", channel)

    async def history(
        self, channel: str, *, limit: int | None = None, before: int | None = None, after: int | None = None
    ) -> dict[str, Any]:
        """Read a channel's history; bounds are exclusive offsets."""
        bounds = {"limit": limit, "before": before, "after": after}
        given = {name: value for name, value in bounds.items() if value is not None}
        reply: dict[str, Any] = await self.command("channel.history", channel, given)
        return reply

    async def presence(self, channel: str) -> dict[str, int]:
        """Count the connections of each subject on a channel."""
        reply = await self.command("channel.presence", channel)
        return {member["subject"]: member["connections"] for member in reply["members"]}

    async def send(self, subject: str, data: object) -> int:
        """Send to every connection of a user of the same tenant; give how many got it."""
        delivered: int = (await self.command("user.send", data={"to": subject, "data": data}))["delivered"]
        return delivered

    async def broadcast(self, data: object) -> None:
        """Send to every connection of the tenant."""
        await self.command("broadcast", data=data)

    async def refresh_session(self) -> None:
        """Get a new token and go on with it; done by itself when the gateway says that the present one ends.

        Raises:
            LoginRefusedError: There was no new token.
            CommandRefusedError: The gateway did not take it.
        """
        connection = await self._standing()
        tokens = await self._tokens.renewed()
        await connection.command("session.refresh", data={"token": tokens.access_token})

    # -------------------------------------------------------------------------------------------- connecting

    async def _open(self, credential: Credential) -> Connection:
        tokens = await (self._tokens.renewed() if credential is Credential.NEW else self._tokens.usable())
        access: Tokens | Ticket = await self._authorization.ticket(tokens) if self._by_ticket else tokens
        return await Connection.open(
            self._url, access, self._subprotocol, push=self._pushed, observe=self._observe, tls=self._tls
        )

    async def _stay(self, connection: Connection) -> None:
        try:
            cause = await self._keep_connected(connection)
        except BaseException:
            self._finish(UnreachableError("the client failed while it came back"))
            raise
        self._finish(cause)

    async def _keep_connected(self, connection: Connection) -> ClientError:
        """Keep a connection until coming back would not help; give what ended the last one."""
        failures = 0
        loop = asyncio.get_running_loop()
        while True:
            since = loop.time()
            cause = await asyncio.shield(connection.ended)
            self._connected.clear()
            failures = 0 if loop.time() - since >= STABLE_AFTER_S else failures
            step = self._step(cause, failures)
            while step is not None:
                self._emit(Disconnected(cause, step.after_s))
                failures += 1
                await asyncio.sleep(step.after_s)
                try:
                    connection = await self._come_back(step.credential)
                    break
                except ClientError as wrong:
                    cause = wrong
                    step = self._step(cause, failures)
            if step is None:
                return cause

    def _step(self, cause: ClientError, failures: int) -> Return | None:
        told_s, self._told_s = self._told_s, None
        if not self._reconnect or self._end is not None:
            return None
        chance = self._dice.random()
        match cause:
            case ConnectionEndedError():
                return next_step(cause.code, cause.reason, told_s=told_s, failures=failures, chance=chance)
            case UnreachableError():
                return next_step(ABNORMAL, "", told_s=None, failures=failures, chance=chance)
            case UpgradeRefusedError() if cause.status in _RETRYABLE_STATUS:
                return Return(max(cause.retry_after_s or 0.0, back_off_s(failures, chance)), Credential.SAME)
            case LoginRefusedError() if cause.retry_after_s is not None:
                return Return(max(cause.retry_after_s, back_off_s(failures, chance)), Credential.NEW)
            case _:
                return None

    async def _come_back(self, credential: Credential) -> Connection:
        connection = await self._open(credential)
        self._connection = connection
        self._emit(Connected(connection.welcome, again=True))
        try:
            for channel in self._subscriptions.channels:
                await self._subscriptions.take_up_again(connection, channel)
        except TimeoutError as slow:
            await connection.close()
            raise UnreachableError("the gateway did not answer in time") from slow
        self._connected.set()
        return connection

    async def _standing(self) -> Connection:
        while True:
            if self._end is not None:
                raise self._end
            await self._connected.wait()
            connection = self._connection
            if connection is not None and not connection.ended.done():
                return connection
            if self._end is None:  # it has just ended, and the task that comes back has not seen it yet
                self._connected.clear()

    # -------------------------------------------------------------------------------------------- pushes

    def _pushed(self, push: Push | ErrorFrame) -> None:
        if not isinstance(push, ErrorFrame):
            self._subscriptions.follow(push)
        match push:
            case UnsubscribedPush(channel=channel, reason="position_lost"):
                self._lost.put_nowait(channel)
            case ExpiringPush():
                self._expiring.set()
            case DrainingPush(reconnect_after_s=after_s):
                self._told_s = after_s
        self._emit(push)
        if isinstance(self._end, PushesNotReadError):
            raise self._end  # the connection closes on it

    async def _take_up_again(self) -> None:
        while True:
            channel = await self._lost.get()
            # What fails here ends in a close, after which all subscriptions are taken up, or has been told as an event.
            with contextlib.suppress(ClientError, TimeoutError):
                connection = await self._standing()
                if channel in self._subscriptions:
                    await self._subscriptions.take_up_again(connection, channel)

    async def _renew_in_time(self) -> None:
        while True:
            await self._expiring.wait()
            self._expiring.clear()
            await asyncio.sleep(self._tokens.renewal_wait_s())
            with contextlib.suppress(ClientError, TimeoutError):  # the close that follows is answered by the rules
                await self.refresh_session()

    def _emit(self, event: Event) -> None:
        if self._end is not None:
            return
        if self._events.qsize() >= MAX_EVENTS:
            self._finish(PushesNotReadError(f"more than {MAX_EVENTS} events wait; iterate over `events()`"))
        else:
            self._events.put_nowait(event)

    def _finish(self, cause: ClientError) -> None:
        if self._end is None:
            self._end = cause
            self._connected.set()  # whoever waits for a connection learns that there will be none
            self._events.put_nowait(None)

    async def _close_authorization(self) -> None:
        if self._owns_authorization:
            await self._authorization.close()


def _position(reply: dict[str, Any]) -> Position | None:
    epoch, offset = reply.get("epoch"), reply.get("offset")
    return Position(epoch, offset) if isinstance(epoch, str) and isinstance(offset, int) else None


def _is_normal(end: ClientError) -> bool:
    return isinstance(end, ConnectionEndedError) and end.code == _NORMAL
