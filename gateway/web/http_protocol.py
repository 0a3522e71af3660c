"""uvicorn's HTTP protocol class, made strict: bounds on what a peer may cost before anybody knows who it is.

Owns heads and bodies that are too large or too late, requests that RFC 9112 wants refused, upgrade requests up to the point where
they are well formed, floods of them, and a node that drains. Refuses to own what an accepted request means.

llhttp, the parser below, bounds nothing. So octets are fed in small pieces, and counted both as they come (an endless field
shows nowhere else) and as they are parsed (exactly). A refused peer is answered, then read for a moment longer and dropped: a
socket that is closed with something unread takes the answer back.
"""

from __future__ import annotations

import asyncio
import enum
import math
import re
from typing import TYPE_CHECKING, Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gateway.core.addresses import address_key, client_address
from gateway.web.edge import EdgeConfig
from gateway.web.half_close import say_no_more
from gateway.web.problems import http_answer, problem_body
from gateway.web.upgrade import Upgrade
from gateway.web.wire import WireProtocol

if TYPE_CHECKING:
    from uvicorn.server import ServerState

_HEAD_PIECE = 2048
_BODY_PIECE = 16_384
# What the framing of a chunked body may add to it: sizes, extensions, trailer fields.
_FRAMING_BYTES = 16_384
_FIELD_EXTRA = 4  # ": " and CRLF
_LINES_EXTRA = 14  # the two spaces, the version and CRLF of the request line; the empty line behind the head

# RFC 9110 section 7.2 and RFC 3986 section 3.2.2, without userinfo: what a Host may be made of.
_HOST = re.compile(rb"(?:[A-Za-z0-9._~%!$&'()*+,;=-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")
_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")


class _Phase(enum.Enum):
    IDLE = enum.auto()
    HEAD = enum.auto()
    BODY = enum.auto()


class _RefusedError(Exception):
    """A request that is answered by the protocol itself, and ends its connection.

    Args:
        status: The HTTP status.
        detail: What is wrong with it, for the peer.
        headers: Further fields.
    """

    def __init__(self, status: int, detail: str = "", headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers


class GatewayHttpProtocol(HttpToolsProtocol):
    """One HTTP connection, until it ends or becomes a WebSocket.

    Args:
        config: uvicorn's configuration with our edge.
        server_state: uvicorn's connections and tasks.
        app_state: The lifespan's state.
    """

    config: EdgeConfig

    def __init__(
        self,
        config: EdgeConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.edge = config.edge
        self._phase = _Phase.IDLE
        self._head_bytes = 0
        self._raw_bytes = 0
        self._first_piece = 0
        self._body_bytes = 0
        self._upgrading = False
        self._refused: _RefusedError | None = None
        self._deaf = False
        self._held = b""
        self._waits = False
        self._deadline: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None

    # ------------------------------------------------------------------------------------------ octets

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, with the time for the first head running."""
        super().connection_made(transport)
        self._expect_within(self.edge.limits.head_s)

    def data_received(self, data: bytes) -> None:
        """Keep octets until it is this connection's turn; nothing more is read before."""
        self._held += data
        if not self._waits:
            self._wait_for_turn()

    def _wait_for_turn(self) -> None:
        self._waits = True
        self.config.door.enter(self._take_held, len(self._held))
        if self._waits:
            # Or a crowd that sends octet by octet would have all of them read again in each turn.
            self.flow.pause_reading()

    def _take_held(self) -> None:
        """Take what has been kept, where that has not been done meanwhile."""
        if not self._waits:
            return
        self._waits = False
        held, self._held = self._held, b""
        self.flow.resume_reading()
        self._feed(held)

    def _feed(self, data: bytes) -> None:
        """Feed octets to the parser, piece by piece, until it or a bound refuses them."""
        while data and not self._deaf:
            if len(self.pipeline) >= self.edge.limits.pipelined:
                self._held += data
                self.flow.pause_reading()
                return
            size = _BODY_PIECE if self._phase is _Phase.BODY else _HEAD_PIECE
            piece, data = (data, b"") if len(data) <= size else (data[:size], data[size:])
            try:
                self._count_raw(len(piece))
                self.parser.feed_data(piece)
            except httptools.HttpParserUpgrade as upgrade:
                data = piece[upgrade.args[0] :] + data
                if self._upgrading:
                    self._become_websocket(data)
                    return
            except httptools.HttpParserError as error:
                cause = error.__context__
                self._refuse(cause if isinstance(cause, _RefusedError) else _RefusedError(400, "malformed request"))
            except _RefusedError as refused:
                self._refuse(refused)

    def _count_raw(self, size: int) -> None:
        limits = self.edge.limits
        match self._phase:
            case _Phase.HEAD:
                self._raw_bytes += size
                if self._raw_bytes > limits.head_bytes + _HEAD_PIECE:
                    raise _RefusedError(431)
            case _Phase.BODY:
                self._raw_bytes += size
                if self._raw_bytes > limits.body_bytes + _FRAMING_BYTES + _BODY_PIECE:
                    raise _RefusedError(413)
            case _Phase.IDLE:
                self._first_piece = size

    # ------------------------------------------------------------------------------------------ parser callbacks

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._unset_keepalive_if_required()
        super().on_message_begin()
        if self._deadline is None:
            self._expect_within(self.edge.limits.head_s)
        self._phase = _Phase.HEAD
        self._head_bytes = _LINES_EXTRA
        self._raw_bytes, self._first_piece = self._first_piece, 0
        self._body_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Take a part of the request target."""
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field; one of a trailer is counted and dropped: it must never pass for one of the head."""
        self._count_head(len(name) + len(value) + _FIELD_EXTRA)
        if self._phase is _Phase.HEAD:
            super().on_header(name, value.strip(b" \t"))

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self.edge.limits.head_bytes:
            raise _RefusedError(431)

    def on_headers_complete(self) -> None:
        """Refuse what must not go on; start the application, or wait for the parser to stop at the upgrade."""
        self._expect_nothing()
        self._phase = _Phase.BODY
        self._raw_bytes = 0
        self._count_head(len(self.parser.get_method()))
        self._check_request()
        self._upgrading = self.parser.should_upgrade() and self._asks_for_websocket()
        if self._upgrading:
            self._check_upgrade()
            return
        if self.parser.should_upgrade() and self._has_body():
            # The parser takes what follows for the other protocol, so this body would never come.
            raise _RefusedError(400, "a request with a body cannot ask for an upgrade")
        if self._declared_length() > self.edge.limits.body_bytes:
            raise _RefusedError(413)
        self._expect_within(self.edge.limits.body_s)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        self._body_bytes += len(body)
        if self._body_bytes > self.edge.limits.body_bytes:
            raise _RefusedError(413)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request."""
        self._expect_nothing()
        self._phase = _Phase.IDLE
        super().on_message_complete()

    # ------------------------------------------------------------------------------------------ what is refused

    def _check_request(self) -> None:
        version = self.parser.get_http_version()
        if version not in {"1.0", "1.1"}:
            raise _RefusedError(505)
        hosts = self._values(b"host")
        # RFC 9112, section 3.2: exactly one, and a valid one, in HTTP/1.1.
        if len(hosts) > 1 or (not hosts and version == "1.1"):
            raise _RefusedError(400, "exactly one `Host` is needed")
        if hosts and _HOST.fullmatch(hosts[0]) is None:
            raise _RefusedError(400, "malformed `Host`")
        if not self.url.isascii():
            raise _RefusedError(400, "malformed request target")
        if self.parser.get_method() == b"CONNECT":
            # What follows would be for another host: not here.
            raise _RefusedError(405, headers=((b"allow", b"GET, HEAD, POST, DELETE, OPTIONS"),))

    def _check_upgrade(self) -> None:
        """Hold an upgrade request against RFC 6455, section 4.2.1, then against the node's state and the address's rate."""
        version = ((b"upgrade", b"websocket"), (b"sec-websocket-version", b"13"))
        if self.parser.get_http_version() != "1.1":
            raise _RefusedError(426, "a websocket needs HTTP/1.1", version)
        if self.parser.get_method() != b"GET":
            raise _RefusedError(405, headers=((b"allow", b"GET"),))
        if self._has_body():
            raise _RefusedError(400, "an upgrade request has no body")
        if self._values(b"sec-websocket-version") != [b"13"]:
            raise _RefusedError(426, "the websocket version is 13", version)
        keys = self._values(b"sec-websocket-key")
        if len(keys) != 1 or _KEY.fullmatch(keys[0]) is None:
            raise _RefusedError(400, "exactly one `Sec-WebSocket-Key` of 16 octets is needed")
        if not httptools.parse_url(self.url).path:
            raise _RefusedError(400, "malformed request target")
        if self._unanswered() is not None:
            raise _RefusedError(400, "an upgrade cannot wait for the answer to another request")
        if self.edge.draining():
            self.edge.metrics.connection_attempt("draining")
            raise _RefusedError(503, "draining", ((b"retry-after", b"1"),))
        wait_s = self.edge.floods.take(address_key(self._client_address()), self.edge.clock())
        if wait_s > 0:
            self.edge.metrics.connection_attempt("flood")
            raise _RefusedError(429, headers=((b"retry-after", str(math.ceil(wait_s)).encode()),))

    def _client_address(self) -> str:
        forwarded = [value.decode("latin-1") for value in self._values(b"x-forwarded-for")]
        return client_address(self.client[0] if self.client else "", forwarded, self.edge.trusted_proxies)

    def _unanswered(self) -> RequestResponseCycle | None:
        cycle: RequestResponseCycle | None = self.cycle
        return None if cycle is None or cycle.response_complete else cycle

    def _values(self, name: bytes) -> list[bytes]:
        return [value for field, value in self.headers if field == name]

    def _tokens(self, name: bytes) -> list[bytes]:
        return [token.strip().lower() for value in self._values(name) for token in value.split(b",")]

    def _asks_for_websocket(self) -> bool:
        return b"upgrade" in self._tokens(b"connection") and b"websocket" in self._tokens(b"upgrade")

    def _has_body(self) -> bool:
        return self._declared_length() > 0 or bool(self._values(b"transfer-encoding"))

    def _declared_length(self) -> int:
        lengths = self._values(b"content-length")
        return int(lengths[0]) if lengths and lengths[0].isdigit() else 0

    def _should_upgrade(self) -> bool:
        return self._upgrading

    def _refuse(self, refused: _RefusedError) -> None:
        """Answer and end; where the answers to earlier requests are on their way, behind them."""
        self._deaf = True
        self._held = b""
        self._expect_nothing()
        self._unset_keepalive_if_required()
        cycle: RequestResponseCycle | None = self.cycle
        if self._phase is _Phase.BODY and cycle is not None and cycle.scope is self.scope:
            # The request in hand is the one that is refused: its application waits for a body that will not be read.
            answerable = not cycle.response_started and not self.pipeline
            cycle.disconnected = True
            cycle.message_event.set()
            if answerable:
                self._answer(refused)
            else:
                self.transport.close()
                self._expect_within(self.edge.limits.refused_s)
        elif cycle is None or cycle.response_complete:
            self._answer(refused)
        else:
            self._refused = refused

    def _answer(self, refused: _RefusedError) -> None:
        linger_s = self.edge.limits.refused_s
        self._expect_within(linger_s)
        if self.transport.is_closing():
            return
        fields = [*self.server_state.default_headers, *refused.headers]
        self.transport.write(http_answer(refused.status, fields, problem_body(refused.status, refused.detail)))
        say_no_more(self.transport, linger_s)
        self.flow.resume_reading()

    # ------------------------------------------------------------------------------------------ what goes on

    def _become_websocket(self, early: bytes) -> None:
        """Hand the connection to the WebSocket class, with the octets behind the head: they are the first frames."""
        self._expect_nothing()
        self._unset_keepalive_if_required()
        self._reads_again()
        self.connections.discard(self)
        target = httptools.parse_url(self.url)
        make = cast("type[WireProtocol]", self.ws_protocol_class)
        protocol = make(self.config, self.server_state, self.app_state, self.loop)
        protocol.connection_made(self.transport)
        self.transport.set_protocol(protocol)
        self.parser = None  # type: ignore[assignment] # it holds us, and we hold it
        scheme = "wss" if self.scheme == "https" else "ws"
        request = Upgrade(target.path, target.query or b"", self.headers, self.server, self.client, scheme)
        protocol.upgrade(request, early)

    def on_response_complete(self) -> None:
        """Go on with what has waited for this response."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._held = b""
        if self._refused is not None and not self.pipeline and self._unanswered() is None:
            refused, self._refused = self._refused, None
            self._unset_keepalive_if_required()
            self._answer(refused)
        elif self._held and not self._waits and len(self.pipeline) < self.edge.limits.pipelined:
            self._wait_for_turn()

    # ------------------------------------------------------------------------------------------ time

    def _expect_within(self, seconds: float) -> None:
        self._expect_nothing()
        self._deadline = self.loop.call_later(seconds, self._too_late)

    def _expects_something(self) -> bool:
        return self._deadline is not None

    def _expect_nothing(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_late(self) -> None:
        self._deadline = None
        if self._waits:
            self._take_held()  # what has come in time counts, turn or not
            if self._expects_something() or self._is_answering():
                return
        if self._deaf or self._phase is _Phase.IDLE:
            self.transport.abort()  # nothing was asked, so nothing is answered; or the answer has had its time
        else:
            self._refuse(_RefusedError(408))

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection; one whose request waits for its turn is none."""
        if self._waits:
            self._take_held()
        if self._phase is _Phase.IDLE and not self._is_answering():
            super().timeout_keep_alive_handler()

    def _is_answering(self) -> bool:
        """Tell whether a whole request has come that is not answered yet, or the connection has become a WebSocket."""
        gone = self.transport.get_protocol() is not self
        return gone or bool(self.pipeline) or self._unanswered() is not None

    def pause_writing(self) -> None:
        """Wait for a peer that does not read its answers, but not for ever."""
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(self.edge.limits.stalled_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Note that it reads."""
        super().resume_writing()
        self._reads_again()

    def _reads_again(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def eof_received(self) -> bool:  # type: ignore[override]
        """Let a peer that has asked and said that it asks no more have its answer."""
        self._take_held()  # where one read held both; else nothing is read, and no end seen, before its turn
        cycle = self._unanswered()
        if cycle is None or self._phase is not _Phase.IDLE or self.pipeline or not self.transport.can_write_eof():
            return False
        cycle.keep_alive = False
        return True

    def shutdown(self) -> None:
        """Finish the answers that are ours to finish; wait for no body, which a peer could hold the stop up with."""
        if self._phase is _Phase.BODY and not self._deaf:
            self._refuse(_RefusedError(503, "draining", ((b"retry-after", b"1"),)))
            self.transport.close()
        else:
            super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """Free everything."""
        self._deaf = True
        self._held = b""
        self._expect_nothing()
        self._unset_keepalive_if_required()
        self._reads_again()
        super().connection_lost(exc)
