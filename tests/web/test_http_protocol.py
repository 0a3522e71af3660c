"""The HTTP edge over a real socket, octet by octet: what is bounded, what is refused, and what goes on."""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import Sequence

import pytest
from edge_server import KEY, PATIENCE_S, Raw, Served, close_frame, serving, text, until, upgrade
from fastapi import APIRouter, Request, Response

from gateway.web.edge import EdgeLimits

GET = b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n"
HEAD_BYTES = 16_384


def echo_router(release: asyncio.Event | None = None) -> APIRouter:
    """Serve what a test needs of an application."""
    router = APIRouter()

    @router.api_route("/echo", methods=["GET", "POST"])
    async def echo(request: Request) -> Response:
        body = await request.body()
        headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.headers.raw]
        return Response(json.dumps({"body": body.decode("latin-1"), "headers": headers}), media_type="application/json")

    @router.post("/early")
    async def early() -> Response:
        return Response("early")

    @router.get("/wait")
    async def wait() -> Response:
        assert release is not None
        await release.wait()
        return Response("waited")

    @router.get("/large")
    async def large() -> Response:
        return Response(b"x" * 20_000_000)

    return router


def post(body: bytes, *fields: bytes, path: bytes = b"/echo") -> bytes:
    """Write a POST without the field that frames its body."""
    return b"POST %s HTTP/1.1\r\nHost: a\r\n%s\r\n%s" % (path, b"".join(field + b"\r\n" for field in fields), body)


def padded(size: int) -> bytes:
    """Write a request whose head has exactly so many octets."""
    empty = b"GET /echo HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n"
    return empty.replace(b"X: ", b"X: " + b"x" * (size - len(empty)))


async def ok(raw: Raw) -> dict[str, object]:
    """Read the answer of the echo."""
    status, _, body = await raw.response()
    assert status == 200
    answer: dict[str, object] = json.loads(body)
    return answer


# ------------------------------------------------------------------------------------------------- heads


async def test_head_of_16_kib_passes() -> None:
    async with serving(routers=[echo_router()]) as served, await served.raw() as raw:
        raw.send(padded(HEAD_BYTES))
        await ok(raw)


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(padded(HEAD_BYTES + 1), id="one octet over, in one segment"),
        pytest.param(padded(200_000), id="far over, in one segment"),
        pytest.param(b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", id="long target"),
        pytest.param(b"GET /" + b"x" * 20_000, id="endless target"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 20_000, id="endless field"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nX:" + b" " * 20_000, id="endless spaces"),
        pytest.param(
            b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(b"X%d: y\r\n" % n for n in range(3000)), id="many fields"
        ),
        pytest.param(upgrade(x_padding="x" * 17_000), id="upgrade"),
    ],
)
async def test_larger_head_is_431(request_: bytes) -> None:
    async with serving(routers=[echo_router()]) as served, await served.raw() as raw:
        raw.send(request_)
        assert (await raw.problem())[0] == 431
        assert not served.metrics.attempts


async def test_larger_head_is_431_when_it_drips() -> None:
    async with serving() as served, await served.raw() as raw:
        raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n")
        for _ in range(400):
            raw.send(b"X: " + b"x" * 50 + b"\r\n")
            await asyncio.sleep(0)
        assert (await raw.problem())[0] == 431


async def test_small_heads_behind_each_other_do_not_add_up() -> None:
    async with serving(routers=[echo_router()]) as served, await served.raw() as raw:
        for _ in range(4):
            raw.send(padded(6000))
            await ok(raw)
        raw.send(padded(6000) * 4)
        for _ in range(4):
            await ok(raw)


async def test_head_that_is_not_finished_in_time_is_dropped() -> None:
    async with serving(limits=EdgeLimits(head_s=0.05)) as served, await served.raw() as raw:
        raw.send(b"GET / HTTP/1.1\r\nHost")
        assert (await raw.problem())[0] == 408


async def test_silent_connection_is_dropped_without_a_word() -> None:
    async with serving(limits=EdgeLimits(head_s=0.05)) as served, await served.raw() as raw:
        assert await raw.rest() == b""


async def test_empty_lines_do_not_keep_a_connection_open() -> None:
    async with (
        serving(limits=EdgeLimits(keep_alive_s=0.05), routers=[echo_router()]) as served,
        await served.raw() as raw,
    ):
        raw.send(GET)
        await ok(raw)
        raw.send(b"\r\n")
        assert await raw.rest() == b""


async def test_idle_connection_is_closed_after_its_time() -> None:
    async with (
        serving(limits=EdgeLimits(keep_alive_s=0.05), routers=[echo_router()]) as served,
        await served.raw() as raw,
    ):
        raw.send(GET)
        await ok(raw)
        assert await raw.rest() == b""


async def test_second_head_has_its_own_time() -> None:
    async with serving(limits=EdgeLimits(head_s=0.1), routers=[echo_router()]) as served, await served.raw() as raw:
        raw.send(GET)
        await ok(raw)
        raw.send(GET[:10])
        assert (await raw.problem())[0] == 408


async def test_refused_peer_that_stays_is_dropped() -> None:
    async with serving(limits=EdgeLimits(refused_s=0.05)) as served, await served.raw() as raw:
        raw.send(b"junk\r\n\r\n")
        assert (await raw.problem())[0] == 400
        await until(lambda: not served.uvicorn.connections)


async def test_stalled_reader_of_a_response_is_dropped() -> None:
    async with serving(limits=EdgeLimits(stalled_s=0.05), routers=[echo_router()]) as served, await served.raw() as raw:
        raw.send(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: served.uvicorn.connections)
        await until(lambda: not served.uvicorn.connections)
        assert len(await raw.rest()) < 20_000_000


async def test_slow_reader_of_a_response_gets_it_all() -> None:
    async with serving(routers=[echo_router()]) as served, await served.raw() as raw:
        raw.send(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        assert len((await raw.response())[2]) == 20_000_000


# ------------------------------------------------------------------------------------------------- bodies


async def test_body_of_64_kib_passes() -> None:
    async with serving(routers=[echo_router()]) as served, await served.raw() as raw:
        raw.send(post(b"x" * 65_536, b"Content-Length: 65536"))
        assert (await ok(raw))["body"] == "x" * 65_536


async def test_larger_body_is_413_before_it_comes() -> None:
    async with serving(routers=[echo_router()]) as served, await served.raw() as raw:
        raw.send(post(b"", b"Content-Length: 65537", b"Expect: 100-continue"))
        assert (await raw.problem())[0] == 413


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"10001\r\n" + b"x" * 65_537, id="one chunk"),
        pytest.param(b"1000\r\n" + b"x" * 4096 + b"\r\n" + b"f001\r\n" + b"x" * 61_441, id="several"),
        pytest.param(b"1\r\nx\r\n" * 30_000, id="framing alone"),
        pytest.param((b"1;" + b"e" * 1000 + b"\r\nx\r\n") * 200, id="extensions"),
        pytest.param(b"1;" + b"e" * 200_000, id="endless extension"),
    ],
)
async def test_larger_chunked_body_is_413(body: bytes) -> None:
    async with serving(routers=[echo_router()]) as served, await served.raw() as raw:
        raw.send(post(body, b"Transfer-Encoding: chunked"))
        assert (await raw.problem())[0] == 413


async def test_trailer_is_bounded_and_never_passes_for_a_field_of_the_head() -> None:
    async with serving(routers=[echo_router()]) as served:
        async with await served.raw() as raw:
            raw.send(post(b"2\r\nhi\r\n0\r\nAuthorization: Bearer x\r\n\r\n", b"Transfer-Encoding: chunked"))
            answer = await ok(raw)
            assert answer["body"] == "hi"
            assert "authorization" not in json.dumps(answer)
        async with await served.raw() as raw:
            raw.send(post(b"0\r\n" + b"X: y\r\n" * 4000, b"Transfer-Encoding: chunked"))
            assert (await raw.problem())[0] == 431


async def test_body_that_is_not_finished_in_time_is_dropped() -> None:
    async with serving(limits=EdgeLimits(body_s=0.05), routers=[echo_router()]) as served, await served.raw() as raw:
        raw.send(post(b"x", b"Content-Length: 10"))
        assert (await raw.problem())[0] == 408


async def test_body_that_is_late_behind_its_own_answer_gets_no_second_one() -> None:
    async with serving(limits=EdgeLimits(body_s=0.05), routers=[echo_router()]) as served, await served.raw() as raw:
        raw.send(post(b"x", b"Content-Length: 10", path=b"/early"))
        assert (await raw.response())[::2] == (200, b"early")
        assert await raw.rest() == b""


async def test_body_and_next_request_in_one_segment() -> None:
    async with serving(routers=[echo_router()]) as served, await served.raw() as raw:
        raw.send(post(b"x" * 30_000, b"Content-Length: 30000"), padded(10_000))
        assert (await ok(raw))["body"] == "x" * 30_000
        await ok(raw)


# ------------------------------------------------------------------------------------------------- requests


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", 400, id="no host"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400, id="two hosts"),
        pytest.param(b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", 400, id="two hosts in 1.0"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400, id="host with a space"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400, id="host with a path"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400, id="host with a user"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: \r\n\r\n", 400, id="empty host"),
        pytest.param(b"GET /\xc3\xa4 HTTP/1.1\r\nHost: a\r\n\r\n", 400, id="target not ASCII"),
        pytest.param(b"GET  HTTP/1.1\r\nHost: a\r\n\r\n", 400, id="no target"),
        pytest.param(b"GET http://a HTTP/1.1\r\nHost: a\r\n\r\n", 400, id="target without a path"),
        pytest.param(b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 405, id="connect"),
        pytest.param(b"get / HTTP/1.1\r\nHost: a\r\n\r\n", 400, id="method in lower case"),
        pytest.param(b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505, id="HTTP/2.0"),
        pytest.param(b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400, id="space before the colon"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n", 400, id="folded field"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", 400, id="NUL"),
        pytest.param(post(b"ab", b"Content-Length: 2", b"Content-Length: 3"), 400, id="two lengths"),
        pytest.param(post(b"ab", b"Content-Length: -1"), 400, id="negative length"),
        pytest.param(post(b"", b"Content-Length: 1", b"Transfer-Encoding: chunked"), 400, id="length and chunks"),
        pytest.param(post(b"", b"Transfer-Encoding: gzip"), 400, id="unknown coding"),
        pytest.param(post(b"zz\r\n", b"Transfer-Encoding: chunked"), 400, id="bad chunk"),
        pytest.param(post(b"ab", b"Content-Length: 2", b"Connection: Upgrade", b"Upgrade: h2c"), 400, id="h2c body"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00", 400, id="TLS"),
    ],
)
async def test_bad_request_is_refused(request_: bytes, status: int) -> None:
    async with serving(routers=[echo_router()]) as served, await served.raw() as raw:
        raw.send(request_)
        assert (await raw.problem())[0] == status


@pytest.mark.parametrize("host", [b"a", b"a:8000", b"127.0.0.1:1", b"[::1]", b"[::1]:8000", b"xn--a_b.example."])
async def test_good_hosts_pass(host: bytes) -> None:
    async with serving(routers=[echo_router()]) as served, await served.raw() as raw:
        raw.send(b"GET /echo HTTP/1.1\r\nHost: %s\r\n\r\n" % host)
        await ok(raw)


async def test_http_1_0_needs_no_host_and_is_closed_after_its_answer() -> None:
    async with serving(routers=[echo_router()]) as served, await served.raw() as raw:
        raw.send(b"GET /echo HTTP/1.0\r\n\r\n")
        await ok(raw)
        assert await raw.rest() == b""


async def test_unknown_upgrade_is_ignored_and_what_follows_is_the_next_request() -> None:
    async with serving(routers=[echo_router()]) as served, await served.raw() as raw:
        raw.send(b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", GET)
        await ok(raw)
        await ok(raw)


async def test_requests_in_one_segment_are_answered_in_order() -> None:
    async with serving(routers=[echo_router()]) as served, await served.raw() as raw:
        raw.send(*[post(b"%03d" % n, b"Content-Length: 3") for n in range(100)])
        assert [(await ok(raw))["body"] for _ in range(100)] == [f"{n:03d}" for n in range(100)]


async def test_nothing_behind_the_last_request_is_carried_out() -> None:
    last = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    async with serving(routers=[echo_router()]) as served, await served.raw() as raw:
        raw.send(GET * 10, last, GET * 100)
        for _ in range(11):
            await ok(raw)
        assert await raw.rest() == b""


async def test_client_that_asks_and_says_no_more_gets_its_answer() -> None:
    release = asyncio.Event()
    async with serving(routers=[echo_router(release)]) as served, await served.raw() as raw:
        raw.send(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
        raw.writer.write_eof()
        (protocol,) = served.uvicorn.connections
        await until(lambda: protocol.cycle is not None and not protocol.cycle.keep_alive)
        release.set()
        assert (await raw.response())[2] == b"waited"
        assert await raw.rest() == b""


async def test_client_that_goes_in_the_middle_is_forgotten() -> None:
    async with serving(routers=[echo_router()]) as served:
        for request in (b"GET", post(b"x", b"Content-Length: 9"), b""):
            async with await served.raw() as raw:
                raw.send(request)
                raw.writer.write_eof()
                assert await raw.rest() == b""
        await until(lambda: not served.uvicorn.connections)


async def test_bad_request_behind_a_good_one_is_answered_behind_its_answer() -> None:
    release = asyncio.Event()
    async with serving(routers=[echo_router(release)]) as served, await served.raw() as raw:
        raw.send(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n", b"junk\r\n\r\n", GET)
        await asyncio.sleep(0)
        release.set()
        assert (await raw.response())[2] == b"waited"
        assert (await raw.problem())[0] == 400


async def test_upgrade_behind_an_unanswered_request_is_refused_behind_its_answer() -> None:
    release = asyncio.Event()
    async with serving(routers=[echo_router(release)]) as served, await served.raw() as raw:
        raw.send(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n", upgrade())
        await asyncio.sleep(0)
        release.set()
        assert (await raw.response())[2] == b"waited"
        assert (await raw.problem())[0] == 400


async def test_upgrade_behind_an_answered_request_goes_on() -> None:
    async with serving(routers=[echo_router()]) as served, await served.raw() as raw:
        raw.send(GET)
        await ok(raw)
        raw.send(upgrade(), text("hi"))
        assert (await raw.response())[0] == 101
        assert [await raw.frame() for _ in range(2)] == [(0x81, b"welcome"), (0x81, b"hi")]


# ------------------------------------------------------------------------------------------------- upgrades


@pytest.mark.parametrize(
    ("request_", "status", "fields"),
    [
        pytest.param(upgrade().replace(b"/1.1", b"/1.0"), 426, {"upgrade": "websocket"}, id="HTTP/1.0"),
        pytest.param(upgrade().replace(b"GET", b"POST"), 405, {"allow": "get"}, id="POST"),
        pytest.param(upgrade(sec_websocket_version="8"), 426, {"sec-websocket-version": "13"}, id="version 8"),
        pytest.param(upgrade(sec_websocket_version="13, 8"), 426, {"sec-websocket-version": "13"}, id="two versions"),
        pytest.param(upgrade(drop=["sec-websocket-version"]), 426, {"sec-websocket-version": "13"}, id="no version"),
        pytest.param(upgrade(drop=["sec-websocket-key"]), 400, {}, id="no key"),
        pytest.param(upgrade(sec_websocket_key="c2hvcnQ="), 400, {}, id="short key"),
        pytest.param(upgrade(sec_websocket_key="!" * 24), 400, {}, id="key no base64"),
        pytest.param(upgrade()[:-2] + f"Sec-WebSocket-Key: {KEY}\r\n\r\n".encode(), 400, {}, id="two keys"),
        pytest.param(upgrade(drop=["host"]), 400, {}, id="no host"),
        pytest.param(upgrade()[:-2] + b"Host: b\r\n\r\n", 400, {}, id="two hosts"),
        pytest.param(upgrade("http://127.0.0.1"), 400, {}, id="target without a path"),
        pytest.param(upgrade(content_length="2") + b"ab", 400, {}, id="body"),
        pytest.param(upgrade(transfer_encoding="chunked") + b"0\r\n\r\n", 400, {}, id="chunked body"),
        pytest.param(upgrade(sec_websocket_extensions="permessage-deflate; ; ="), 101, {}, id="extensions ignored"),
        pytest.param(upgrade(drop=["upgrade"]), 426, {"upgrade": "websocket"}, id="no upgrade field"),
        pytest.param(upgrade(connection="keep-alive"), 426, {"upgrade": "websocket"}, id="no connection option"),
        pytest.param(upgrade(connection="keep-alive, Upgrade"), 101, {}, id="as Firefox does"),
        pytest.param(upgrade(upgrade="WebSocket"), 101, {}, id="capitals"),
        pytest.param(upgrade(content_length="0"), 101, {}, id="empty body"),
        pytest.param(upgrade(x_long="x" * 12_000), 101, {}, id="long field"),
        pytest.param(upgrade(**{f"x_{n}": "y" for n in range(400)}), 101, {}, id="many fields"),
        pytest.param(upgrade("http://127.0.0.1/ws?token=good"), 101, {}, id="absolute target"),
    ],
)
async def test_upgrade_request_is_held_against_rfc_6455(request_: bytes, status: int, fields: dict[str, str]) -> None:
    async with serving() as served, await served.raw() as raw:
        raw.send(request_)
        got, headers, _ = await raw.response()
        assert got == status
        assert fields.items() <= {name: value.lower() for name, value in headers.items()}.items()


async def test_accept_key_is_that_of_the_rfc() -> None:
    async with serving() as served, await served.raw() as raw:
        raw.send(upgrade())
        _, headers, _ = await raw.response()
        assert headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


async def test_junk_for_extensions_is_400_where_they_are_read() -> None:
    async with serving(compression=True) as served, await served.raw() as raw:
        raw.send(upgrade(sec_websocket_extensions="permessage-deflate; ; ="))
        assert (await raw.problem())[0] == 400


async def test_draining_node_answers_upgrades_with_503_and_requests_as_ever() -> None:
    async with serving(routers=[echo_router()]) as served:
        served.state["draining"] = True
        async with await served.raw() as raw:
            raw.send(GET)
            await ok(raw)
            raw.send(upgrade())
            status, headers = await raw.problem()
            assert (status, headers["retry-after"]) == (503, "1")
        assert served.metrics.attempts == {"draining": 1}


# ------------------------------------------------------------------------------------------------- floods

PROXY = (ipaddress.ip_network("127.0.0.1/32"),)


async def statuses(served: Served, requests: Sequence[bytes]) -> list[int]:
    """Send each request on a connection of its own; give the answers' statuses."""
    answers = []
    for request in requests:
        async with await served.raw() as raw:
            raw.send(request)
            answers.append((await raw.response())[0])
    return answers


async def test_flood_from_an_address_is_429_before_the_upgrade() -> None:
    async with serving(handshakes_per_s=0.1) as served:
        assert await statuses(served, [upgrade()] * 3) == [101, 429, 429]
        assert served.metrics.attempts == {"flood": 2}


async def test_flood_is_told_when_to_come_back() -> None:
    async with serving(handshakes_per_s=0.1) as served:
        await statuses(served, [upgrade()])
        async with await served.raw() as raw:
            raw.send(upgrade())
            status, headers = await raw.problem()
            assert (status, headers["retry-after"]) == (429, "10")


async def test_floods_are_counted_by_the_client_behind_a_trusted_proxy() -> None:
    async with serving(handshakes_per_s=0.1, trusted=PROXY) as served:
        requests = [upgrade(x_forwarded_for=address) for address in ("192.0.2.1", "192.0.2.2", "192.0.2.1")]
        assert await statuses(served, requests) == [101, 101, 429]


async def test_ipv6_addresses_of_one_network_flood_together() -> None:
    async with serving(handshakes_per_s=0.1, trusted=PROXY) as served:
        requests = [upgrade(x_forwarded_for=address) for address in ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1")]
        assert await statuses(served, requests) == [101, 429, 101]


async def test_forged_addresses_do_not_get_round_the_limit() -> None:
    async with serving(handshakes_per_s=0.1) as served:
        requests = [upgrade(x_forwarded_for=f"192.0.2.{n}") for n in range(3)]
        assert await statuses(served, requests) == [101, 429, 429]


async def test_plain_requests_are_no_handshakes() -> None:
    async with serving(handshakes_per_s=0.1, routers=[echo_router()]) as served:
        assert await statuses(served, [GET] * 5) == [200] * 5


async def test_refused_handshakes_count_as_well() -> None:
    async with serving(handshakes_per_s=0.1) as served:
        assert await statuses(served, [upgrade("/ws"), upgrade("/ws")]) == [101, 429]


# ------------------------------------------------------------------------------------------------- shutdown


async def test_idle_connection_ends_at_a_shutdown_and_a_busy_one_after_its_answer() -> None:
    release = asyncio.Event()
    async with (
        serving(routers=[echo_router(release)]) as served,
        await served.raw() as idle,
        await served.raw() as busy,
    ):
        busy.send(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: len(served.uvicorn.tasks) == 1)
        for connection in list(served.uvicorn.connections):
            connection.shutdown()
        assert await idle.rest() == b""
        release.set()
        assert (await busy.response())[2] == b"waited"
        assert await busy.rest() == b""


async def test_websockets_end_with_1001_at_a_shutdown() -> None:
    async with serving() as served, await served.upgraded() as raw:
        for connection in list(served.uvicorn.connections):
            connection.shutdown()
        assert await raw.closing() == (1001, "draining")
        raw.send(close_frame(1001))
        assert await asyncio.wait_for((await served.connection()).gone, PATIENCE_S) == 1001
