"""One connection from the client's side: handshake, welcome, signatures, commands in flight.

Owns a socket and what is true only while it lives. Refuses to own coming back, subscriptions and tokens: see `client`.
"""

from __future__ import annotations

import asyncio
import enum
import secrets
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import msgspec
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from gateway.client.authorization import Ticket, Tokens
from gateway.client.dialing import OPEN_TIMEOUT_S, dial, ended
from gateway.client.errors import (
    ClientError,
    CommandRefusedError,
    ProtocolViolationError,
    PushesNotReadError,
    UnreachableError,
)
from gateway.core.errors import Closes, SignatureError
from gateway.core.frames import (
    ENCODERS,
    BroadcastPush,
    Command,
    DirectPush,
    DrainingPush,
    Encoding,
    ErrorFrame,
    ExpiringPush,
    MessagePush,
    PresencePush,
    Push,
    UnsubscribedPush,
    Welcome,
)
from gateway.core.handshake import Subprotocol
from gateway.core.signing import (
    MAX_CLIENT_NONCE_BYTES,
    SERVER_NONCE_BYTES,
    Signer,
    Verifier,
    decode_base64url,
    derive_keys,
)

COMMAND_TIMEOUT_S = 30.0
MAX_COMMANDS_IN_FLIGHT = 1024

_PUSHES: dict[str, type[Push]] = {
    "message": MessagePush,
    "presence": PresencePush,
    "direct": DirectPush,
    "broadcast": BroadcastPush,
    "unsubscribed": UnsubscribedPush,
    "expiring": ExpiringPush,
    "draining": DrainingPush,
}
_TEXT_SIGNATURE = 68  # "s1.", 64 digits, "."
_BINARY_SIGNATURE = 33  # the version, the MAC
_PROTOCOL_ERROR, _POLICY = 1002, 1008

Frame = dict[str, Any]
Kind = TypeVar("Kind")


class Direction(enum.Enum):
    """Which way a frame went, seen from the client."""

    SENT = "sent"
    RECEIVED = "received"


Observe = Callable[[Direction, object], None]
"""Sees every frame or batch in its plain form, its signature taken off."""


@dataclass(slots=True)
class _Pending:
    """A command in flight.

    Args:
        answer: Where its reply goes.
        take: What is done with the reply in the moment it is read, before any later frame; it gives the result.
    """

    answer: asyncio.Future[object]
    take: Callable[[Any], object]


class Connection:
    """A WebSocket to the gateway, past its welcome. Made by `Connection.open`.

    Attributes:
        welcome: The first frame.
        ended: Done when the connection has ended; its result says why.
    """

    def __init__(
        self, socket: ClientConnection, subprotocol: Subprotocol, push: Callable[[Push | ErrorFrame], None]
    ) -> None:
        self.welcome: Welcome
        self.ended: asyncio.Future[ClientError] = asyncio.get_running_loop().create_future()
        self._socket = socket
        self._subprotocol = subprotocol
        self._push = push
        self._observe: Observe | None = None
        self._signer: Signer | None = None
        self._verifier: Verifier | None = None
        self._pending: dict[int, _Pending] = {}
        self._last_id = 0
        self._sending = asyncio.Lock()
        self._room = asyncio.Semaphore(MAX_COMMANDS_IN_FLIGHT)
        self._reading: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        url: str,
        credential: Tokens | Ticket,
        subprotocol: Subprotocol,
        *,
        push: Callable[[Push | ErrorFrame], None],
        observe: Observe | None = None,
        origin: str | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> Self:
        """Connect, and come back once the welcome has been verified.

        Args:
            url: Where the gateway is, as `http(s)://…` or `ws(s)://…`.
            credential: Tokens go into the `Authorization` header, a ticket into the query.
            subprotocol: One of `SUBPROTOCOLS`.
            push: Called with each push, and with each error that answers no command, in the order of arrival.
            observe: Called with each frame as it is, for those who look on.
            origin: The `Origin` header, for a ticket that is bound to one.
            tls: What certificates count; the system's by default.

        Raises:
            ConnectionEndedError: The gateway closed at once; code and reason say why.
            UpgradeRefusedError: The gateway answered with an HTTP status.
            UnreachableError: Nothing answered.
            ProtocolViolationError: What answered broke the protocol, or the credential has no key and shall sign.
        """
        if subprotocol.signed and credential.signing_key is None:
            raise ProtocolViolationError("signed frames need a signing key, which this credential has none of")
        nonce = secrets.token_bytes(MAX_CLIENT_NONCE_BYTES) if subprotocol.signed else b""
        socket = await dial(url, credential, subprotocol, nonce, origin, tls)
        connection = cls(socket, subprotocol, push)
        connection._observe = observe
        try:
            await connection._greet(credential.signing_key, nonce)
        except ConnectionClosed as closed:
            raise ended(closed) from None
        except (SignatureError, ProtocolViolationError) as wrong:
            await socket.close(_POLICY if isinstance(wrong, SignatureError) else _PROTOCOL_ERROR)
            raise ProtocolViolationError(f"the welcome does not hold: {wrong}") from wrong
        except TimeoutError:
            await socket.close()
            raise UnreachableError(f"`{url}` took the handshake and said nothing") from None
        except BaseException:
            await socket.close()
            raise
        connection._reading = asyncio.create_task(connection._read(), name="gateway client: read")
        return connection

    # -------------------------------------------------------------------------------------------- commands

    async def command(
        self,
        action: str,
        channel: str | None = None,
        data: object = msgspec.UNSET,
        *,
        timeout_s: float = COMMAND_TIMEOUT_S,
        take: Callable[[Any], object] | None = None,
    ) -> Any:  # noqa: ANN401 - the data of a reply is whatever the action gives
        """Send a command and wait for its reply.

        Args:
            action: A dotted name.
            channel: Where the action takes one.
            data: What the action takes.
            timeout_s: Seconds to wait for the answer.
            take: Called with the reply's data before any later frame is looked at; gives the result.

        Raises:
            CommandRefusedError: The gateway answered with an error.
            ConnectionEndedError: The connection ended first.
            TimeoutError: No answer came in time.
        """
        async with asyncio.timeout(timeout_s), self._room:
            if self.ended.done():
                raise self.ended.result()
            self._last_id = command_id = self._last_id + 1
            pending = _Pending(asyncio.get_running_loop().create_future(), take or _as_it_is)
            self._pending[command_id] = pending
            try:
                await self._send(Command(command_id, action, msgspec.UNSET if channel is None else channel, data))
                return await pending.answer
            finally:
                self._pending.pop(command_id, None)
                if not pending.answer.cancel() and not pending.answer.cancelled():
                    pending.answer.exception()  # looked at, for where sending has failed before anybody waited for it

    async def send_as_is(self, frame: object) -> None:
        """Send a frame or a batch without looking at it; its answers are seen by `observe` alone.

        Raises:
            ConnectionEndedError: The connection has ended.
        """
        await self._send(frame)

    async def close(self) -> None:
        """Close with 1000 and wait until the connection is gone."""
        await self._socket.close()
        if self._reading is not None:
            await self._reading

    async def _send(self, frame: object) -> None:
        body = ENCODERS[self._subprotocol.encoding](frame)
        if self._observe is not None:
            self._observe(Direction.SENT, _plain(body, self._subprotocol.encoding))
        try:
            # One at a time: the signature's count must be the order on the wire.
            async with self._sending:
                payload = body if self._signer is None else self._signer.sign(body)
                await self._socket.send(payload, text=self._subprotocol.encoding is Encoding.JSON)
        except ConnectionClosed as closed:
            raise ended(closed) from None

    # -------------------------------------------------------------------------------------------- frames

    async def _greet(self, signing_key: bytes | None, client_nonce: bytes) -> None:
        if self._socket.subprotocol != self._subprotocol.name:
            raise ProtocolViolationError(
                f"asked for `{self._subprotocol.name}`, and `{self._socket.subprotocol or 'none'}` was chosen"
            )
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            payload = self._payload(await self._socket.recv())
        if self._subprotocol.signed and signing_key is not None:
            server_nonce = _nonce_of(self._unsigned(payload), self._subprotocol.encoding)
            client_key, server_key = derive_keys(signing_key, client_nonce, server_nonce)
            self._signer = Signer(client_key, self._subprotocol.encoding)
            self._verifier = Verifier(server_key, self._subprotocol.encoding)
            payload = self._verifier.verify(payload)
        frame = _plain(payload, self._subprotocol.encoding)
        self.welcome = _convert(frame, Welcome)
        if self._observe is not None:
            self._observe(Direction.RECEIVED, frame)

    async def _read(self) -> None:
        end: ClientError = ProtocolViolationError("the client failed while it read")
        try:
            while True:
                payload = self._payload(await self._socket.recv())
                body = payload if self._verifier is None else self._verifier.verify(payload)
                self._receive(_plain(body, self._subprotocol.encoding))
        except ConnectionClosed as closed:
            end = ended(closed)
        except SignatureError as wrong:
            end = ProtocolViolationError(f"a frame was altered on its way: {wrong}")
            await self._socket.close(_POLICY, Closes.SIGNATURE_INVALID.reason)
        except PushesNotReadError as full:
            end = full
            await self._socket.close()
        except ClientError as wrong:
            end = wrong
            await self._socket.close(_PROTOCOL_ERROR)
        finally:
            self._finish(end)

    def _receive(self, received: object) -> None:
        if self._observe is not None:
            self._observe(Direction.RECEIVED, received)
        for frame in received if isinstance(received, list) else [received]:
            if not isinstance(frame, dict):
                raise ProtocolViolationError("a frame that is no object")
            self._take(frame)

    def _take(self, frame: Frame) -> None:
        kind = frame.get("type")
        match kind:
            case "reply":
                self._resolve(frame)
            case "error":
                self._refuse(_convert(frame, ErrorFrame))
            case str() if kind in _PUSHES:
                self._push(_convert(frame, _PUSHES[kind]))
            case _:
                pass  # a later version's frame: not for us

    def _resolve(self, frame: Frame) -> None:
        pending = self._pending.pop(frame.get("id", 0), None)
        if pending is not None and not pending.answer.done():
            pending.answer.set_result(pending.take(frame.get("data")))

    def _refuse(self, frame: ErrorFrame) -> None:
        pending = self._pending.pop(frame.id, None) if isinstance(frame.id, int) else None
        if pending is None:
            self._push(frame)
        elif not pending.answer.done():
            body = frame.error
            wait_s = body.retry_after_s if isinstance(body.retry_after_s, int | float) else None
            pending.answer.set_exception(CommandRefusedError(body.code, body.message, wait_s))

    def _finish(self, end: ClientError) -> None:
        if not self.ended.done():
            self.ended.set_result(end)
        waiting, self._pending = list(self._pending.values()), {}
        for pending in waiting:
            if not pending.answer.done():
                pending.answer.set_exception(end)

    def _payload(self, message: str | bytes) -> bytes:
        if isinstance(message, str) is not (self._subprotocol.encoding is Encoding.JSON):
            raise ProtocolViolationError("a message of the other kind: text and binary were mixed up")
        return message.encode() if isinstance(message, str) else message

    def _unsigned(self, payload: bytes) -> bytes:
        """Give the body behind a signature that cannot be verified yet."""
        return payload[_TEXT_SIGNATURE if self._subprotocol.encoding is Encoding.JSON else _BINARY_SIGNATURE :]


def _plain(body: bytes, encoding: Encoding) -> object:
    try:
        return msgspec.json.decode(body) if encoding is Encoding.JSON else msgspec.msgpack.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as wrong:
        raise ProtocolViolationError("a frame that cannot be read") from wrong


def _convert(frame: object, kind: type[Kind]) -> Kind:
    try:
        return msgspec.convert(frame, kind)
    except msgspec.ValidationError as wrong:
        raise ProtocolViolationError(f"a frame of another shape: {wrong}") from wrong


def _nonce_of(body: bytes, encoding: Encoding) -> bytes:
    """Take the server's nonce, and nothing else, from a welcome that is not verified yet."""
    match _plain(body, encoding):
        case {"signing": {"nonce": str(text)}}:
            nonce = decode_base64url(text)
        case _:
            nonce = None
    if nonce is None or len(nonce) != SERVER_NONCE_BYTES:
        raise ProtocolViolationError("a signed connection whose welcome has no nonce")
    return nonce


def _as_it_is(data: Any) -> object:  # noqa: ANN401 - as `command`
    return data
