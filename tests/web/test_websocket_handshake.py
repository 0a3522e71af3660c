"""Every handshake over a real socket: what is admitted, what is refused, and what the client sees of it."""

from __future__ import annotations

import ipaddress
import logging

import pytest
from edge_server import NONCE, SECRET, Raw, Serve, close_frame, frame, serving, text, until, upgrade
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.typing import Subprotocol

from gateway.core.handshake import HandshakeRules
from gateway.core.origins import OriginRule
from gateway.web.edge import EdgeLimits

ORIGINS = OriginRule.build("https://gate.example", ["https://app.example"], loopback=False)


async def refused(raw: Raw, request: bytes) -> tuple[int, str, str | None]:
    """Send a handshake that is refused: give the close code and reason, and the subprotocol that was echoed."""
    raw.send(request)
    status, headers, _ = await raw.response()
    assert status == 101, status
    code, reason = await raw.closing()
    raw.send(close_frame(code))
    assert await raw.rest() == b"", "nothing follows the close frame"
    return code, reason, headers.get("sec-websocket-protocol")


# ------------------------------------------------------------------------------------------------- admitted


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/ws", {"authorization": "Bearer good"}),
        ("/ws", {"authorization": "bearer good"}),
        ("/ws", {"sec_websocket_protocol": "gateway.v1.json, bearer.good"}),
        ("/ws", {"sec_websocket_protocol": "bearer.good,gateway.v1.json"}),
        ("/ws?ticket=ticket", {}),
        ("/ws?token=good", {}),
        ("/ws?token=good&token=good", {"authorization": "Bearer good"}),
        ("/ws?token=good", {"sec_websocket_protocol": "gateway.v1.json, bearer.good"}),
    ],
)
async def test_credential_is_taken_in_every_form(serve: Serve, path: str, headers: dict[str, str]) -> None:
    async with serve() as served, await served.upgraded(path, **headers) as raw:
        raw.send(text("hi"))
        assert await raw.frame() == (0x81, b"hi")
        echo = await served.connection()
        assert echo.admission.credential.principal.subject == "alice"
        assert echo.admission.facts.ip == "127.0.0.1"
        assert echo.admission.facts.origin == ""
        assert echo.admission.client_nonce is None


@pytest.mark.parametrize(
    ("offered", "name", "opcode"),
    [
        ("gateway.v1.json", "gateway.v1.json", 0x81),
        ("gateway.v1.msgpack", "gateway.v1.msgpack", 0x82),
        ("gateway.v1.json.signed", "gateway.v1.json.signed", 0x81),
        ("chat, gateway.v1.msgpack.signed, gateway.v1.json", "gateway.v1.msgpack.signed", 0x82),
    ],
)
async def test_first_offered_subprotocol_that_is_spoken_is_echoed(
    serve: Serve, offered: str, name: str, opcode: int
) -> None:
    async with serve() as served, await served.raw() as raw:
        raw.send(upgrade(f"/ws?token=good&nonce={NONCE}", sec_websocket_protocol=offered))
        status, headers, _ = await raw.response()
        assert (status, headers["sec-websocket-protocol"]) == (101, name)
        assert await raw.frame() == (opcode, b"welcome")
        echo = await served.connection()
        assert echo.admission.subprotocol.name == name
        assert echo.admission.facts.signed == name.endswith(".signed")
        assert echo.admission.client_nonce == (bytes(range(16)) if name.endswith(".signed") else None)


async def test_subprotocols_in_several_fields_read_as_one_list(serve: Serve) -> None:
    async with serve() as served, await served.raw() as raw:
        request = upgrade("/ws", sec_websocket_protocol="chat")
        raw.send(
            request[:-2], b"Sec-WebSocket-Protocol: gateway.v1.msgpack\r\nSec-WebSocket-Protocol: bearer.good\r\n\r\n"
        )
        status, headers, _ = await raw.response()
        assert (status, headers["sec-websocket-protocol"]) == (101, "gateway.v1.msgpack")


async def test_no_subprotocol_is_echoed_where_none_was_offered(serve: Serve) -> None:
    async with serve() as served, await served.raw() as raw:
        raw.send(upgrade("/ws?token=good"))
        status, headers, _ = await raw.response()
        assert status == 101
        assert "sec-websocket-protocol" not in headers


async def test_ticket_is_redeemed_for_the_origin_that_brings_it(serve: Serve) -> None:
    async with serve() as served, await served.upgraded("/ws?ticket=bound", origin="https://APP.example") as _:
        assert served.verifier.origins == ["https://app.example"]
        assert (await served.connection()).admission.facts.origin == "https://app.example"


async def test_real_client_sees_the_refusal_as_a_close(serve: Serve) -> None:
    async with serve() as served:
        with pytest.raises(ConnectionClosedError) as caught:
            async with connect(
                f"ws://127.0.0.1:{served.port}/ws", subprotocols=[Subprotocol("gateway.v1.json")]
            ) as client:
                await client.recv()
        assert caught.value.rcvd is not None
        assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (1008, "missing_credentials")


# ------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("path", "headers", "reason"),
    [
        ("/ws", {}, "missing_credentials"),
        ("/ws", {"authorization": "Basic Zm9vOmJhcg=="}, "missing_credentials"),
        ("/ws", {"sec_websocket_protocol": "gateway.v1.json"}, "missing_credentials"),
        ("/ws", {"authorization": "Bearer"}, "invalid_token"),
        ("/ws", {"authorization": "Bearer "}, "invalid_token"),
        ("/ws", {"authorization": "Bearer bad"}, "invalid_token"),
        ("/ws", {"authorization": "Bearer good good"}, "invalid_token"),
        ("/ws", {"sec_websocket_protocol": "gateway.v1.json, bearer."}, "invalid_token"),
        pytest.param(
            "/ws",
            {"sec_websocket_protocol": "gateway.v1.json, bearer.bad=="},
            "invalid_token",
            marks=pytest.mark.wire_only(
                "a word to who offers what is no subprotocol: the server's own parser says 400"
            ),
        ),
        ("/ws?token=", {}, "invalid_token"),
        ("/ws?token=bad", {}, "invalid_token"),
        ("/ws?token=%ff%00", {}, "invalid_token"),
        ("/ws", {"authorization": "Bearer expired"}, "expired_token"),
        ("/ws?token=expired", {}, "expired_token"),
        ("/ws", {"sec_websocket_protocol": "gateway.v1.json, bearer.expired"}, "expired_token"),
        ("/ws", {"authorization": "Bearer revoked"}, "revoked_token"),
        ("/ws?ticket=unknown", {}, "invalid_ticket"),
        ("/ws?ticket=", {}, "invalid_ticket"),
        ("/ws?ticket=bound", {}, "invalid_ticket"),
        ("/ws?token=other", {"authorization": "Bearer good"}, "ambiguous_credentials"),
        ("/ws?token=good&token=other", {}, "ambiguous_credentials"),
        ("/ws?ticket=ticket&token=good", {}, "ambiguous_credentials"),
        ("/ws?ticket=good", {"authorization": "Bearer good"}, "ambiguous_credentials"),
        (
            "/ws",
            {"sec_websocket_protocol": "gateway.v1.json, bearer.other", "authorization": "Bearer good"},
            "ambiguous_credentials",
        ),
        ("/ws?token=good", {"origin": "https://evil.example"}, "origin_not_allowed"),
        ("/ws?token=good", {"origin": "null"}, "origin_not_allowed"),
        ("/ws?token=good", {"origin": ""}, "origin_not_allowed"),
        ("/ws?token=good", {"origin": "https://127.0.0.1"}, "origin_not_allowed"),
        ("/ws?token=good", {"origin": "http://localhost:5173"}, "origin_not_allowed"),
        ("/ws?token=good", {"sec_websocket_protocol": "chat"}, "unsupported_subprotocol"),
        ("/ws", {"sec_websocket_protocol": "bearer.good"}, "unsupported_subprotocol"),
        ("/ws?token=keyless", {"sec_websocket_protocol": "gateway.v1.json.signed"}, "no_signing_key"),
        ("/ws?token=good", {"sec_websocket_protocol": "gateway.v1.json.signed"}, "invalid_nonce"),
        ("/ws?token=good&nonce=AA", {"sec_websocket_protocol": "gateway.v1.msgpack.signed"}, "invalid_nonce"),
        (
            f"/ws?token=good&nonce={NONCE}&nonce={NONCE}",
            {"sec_websocket_protocol": "gateway.v1.json.signed"},
            "invalid_nonce",
        ),
    ],
)
async def test_refusal_is_accepted_and_closed_with_1008(
    serve: Serve, path: str, headers: dict[str, str], reason: str
) -> None:
    async with serve() as served, await served.raw() as raw:
        code, told, _ = await refused(raw, upgrade(path, **headers))
        assert (code, told) == (1008, reason)
        assert served.metrics.attempts == {reason: 1}
        assert [(event, fields["reason"]) for event, fields in served.log.events] == [("connection.refused", reason)]
        assert served.node.connections == []


async def test_refusals_count_in_their_order(serve: Serve) -> None:
    """Each step takes the fault away that counted first; the next one shows."""
    steps: list[tuple[str, dict[str, str], str]] = [
        ("/ws?token=expired&token=keyless", {"origin": "null", "sec_websocket_protocol": "chat"}, "origin_not_allowed"),
        ("/ws?token=expired&token=keyless", {"sec_websocket_protocol": "chat"}, "unsupported_subprotocol"),
        (
            "/ws?token=expired&token=keyless",
            {"sec_websocket_protocol": "gateway.v1.json.signed"},
            "ambiguous_credentials",
        ),
        ("/ws", {"sec_websocket_protocol": "gateway.v1.json.signed"}, "missing_credentials"),
        ("/ws?token=expired", {"sec_websocket_protocol": "gateway.v1.json.signed"}, "expired_token"),
        ("/ws?token=keyless", {"sec_websocket_protocol": "gateway.v1.json.signed"}, "no_signing_key"),
        ("/ws?token=good", {"sec_websocket_protocol": "gateway.v1.json.signed"}, "invalid_nonce"),
    ]
    async with serve() as served:
        for path, headers, reason in steps:
            async with await served.raw() as raw:
                assert (await refused(raw, upgrade(path, **headers)))[1] == reason


@pytest.mark.parametrize(
    ("offered", "echoed"),
    [
        ("gateway.v1.msgpack, gateway.v1.json", "gateway.v1.msgpack"),
        ("chat, gateway.v1.json, bearer.bad", "gateway.v1.json"),
        ("bearer.bad, chat, superchat", "chat"),
        ("bearer.bad", None),
        ("Bearer.bad", None),
    ],
)
async def test_refusal_echoes_what_lets_a_browser_see_it_and_never_a_credential(
    serve: Serve, offered: str, echoed: str | None
) -> None:
    async with serve() as served, await served.raw() as raw:
        assert (await refused(raw, upgrade("/ws", sec_websocket_protocol=offered)))[2] == echoed


async def test_ticket_is_spent_when_it_is_looked_up(serve: Serve) -> None:
    async with serve() as served, await served.upgraded("/ws?ticket=ticket"), await served.raw() as raw:
        assert (await refused(raw, upgrade("/ws?ticket=ticket")))[1] == "invalid_ticket"


async def test_query_token_is_ignored_while_switched_off(serve: Serve) -> None:
    async with serve(rules=HandshakeRules(ORIGINS, query_token=False)) as served:
        async with await served.raw() as raw:
            assert (await refused(raw, upgrade("/ws?token=good")))[1] == "missing_credentials"
        async with await served.upgraded("/ws?token=other", authorization="Bearer good"):
            pass


@pytest.mark.wire_only("a word to who repeats its origin: the server's own parser says 400")
async def test_repeated_origin_is_refused(serve: Serve) -> None:
    async with serve() as served, await served.raw() as raw:
        request = upgrade("/ws?token=good", origin="https://app.example")[:-2] + b"Origin: https://app.example\r\n\r\n"
        assert (await refused(raw, request))[1] == "origin_not_allowed"


@pytest.mark.parametrize("origin", ["https://gate.example", "https://app.example", "http://127.0.0.1"])
async def test_own_and_listed_origins_are_admitted(serve: Serve, origin: str) -> None:
    async with serve() as served, await served.upgraded(origin=origin):
        pass


async def test_loopback_origins_are_admitted_in_development(serve: Serve) -> None:
    rules = HandshakeRules(OriginRule(loopback=True))
    origin = "http://localhost:5173"
    async with serve(rules=rules) as served, await served.upgraded(origin=origin), await served.raw() as raw:
        assert (await refused(raw, upgrade(origin="http://app.example")))[1] == "origin_not_allowed"


async def test_refused_socket_is_dropped_when_its_close_stays_unanswered() -> None:
    async with serving(limits=EdgeLimits(refused_s=0.05)) as served, await served.raw() as raw:
        raw.send(upgrade("/ws"))
        assert (await raw.response())[0] == 101
        assert await raw.closing() == (1008, "missing_credentials")
        assert await raw.rest() == b""


async def test_frames_behind_a_refused_upgrade_are_dropped(serve: Serve) -> None:
    async with serve() as served, await served.raw() as raw:
        raw.send(upgrade("/ws"), text("hi"), frame(0xFF, b"junk"))
        assert (await raw.response())[0] == 101
        assert await raw.closing() == (1008, "missing_credentials")


# ------------------------------------------------------------------------------------------------- proxies

PROXY = (ipaddress.ip_network("127.0.0.0/8"),)


async def test_trusted_proxys_word_counts_for_address_and_scheme(serve: Serve) -> None:
    async with serve(trusted=PROXY) as served:
        headers = {"x_forwarded_for": "203.0.113.9, 198.51.100.7", "x_forwarded_proto": "https"}
        async with await served.upgraded(origin="https://127.0.0.1", **headers):
            echo = await served.connection()
            assert echo.admission.facts.ip == "198.51.100.7"
            assert echo.admission.address_key == "198.51.100.7"


async def test_anybody_elses_word_does_not(serve: Serve) -> None:
    async with serve() as served:
        headers = {"x_forwarded_for": "198.51.100.7", "x_forwarded_proto": "https"}
        async with await served.upgraded(**headers):
            assert (await served.connection()).admission.facts.ip == "127.0.0.1"
        async with await served.raw() as raw:
            assert (await refused(raw, upgrade(origin="https://127.0.0.1", **headers)))[1] == "origin_not_allowed"


async def test_ipv6_client_is_counted_by_its_network(serve: Serve) -> None:
    async with serve(trusted=PROXY) as served, await served.upgraded(x_forwarded_for="2001:db8:1:2:3::4"):
        assert (await served.connection()).admission.address_key == "2001:db8:1:2::/64"


# ------------------------------------------------------------------------------------------------- not now


async def test_handshake_while_the_state_cannot_be_read_is_503(serve: Serve) -> None:
    async with serve() as served, await served.raw() as raw:
        raw.send(upgrade("/ws?token=unavailable"))
        status, headers = await raw.problem()
        assert (status, headers["retry-after"]) == (503, "1")


async def test_limit_of_connections_closes_before_the_welcome(serve: Serve) -> None:
    async with serve() as served, await served.raw() as raw:
        served.node.full = True
        raw.send(upgrade())
        assert (await raw.response())[0] == 101
        assert await raw.closing() == (1013, "connection_limit")
        raw.send(close_frame(1013))
        assert await raw.rest() == b""


async def test_bug_in_a_handshake_is_500_and_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as served, await served.raw() as raw:
        raw.send(upgrade("/ws?token=broken"))
        assert (await raw.problem())[0] == 500
    assert "ValueError" in caplog.text


async def test_upgrade_on_another_path_is_404(serve: Serve) -> None:
    async with serve() as served, await served.raw() as raw:
        raw.send(upgrade("/elsewhere?token=good"))
        assert (await raw.problem())[0] == 404


async def test_real_client_sees_404_on_another_path(serve: Serve) -> None:
    async with serve() as served:
        with pytest.raises(InvalidStatus) as caught:
            await connect(f"ws://127.0.0.1:{served.port}/elsewhere")
        assert caught.value.response.status_code == 404


@pytest.mark.parametrize("token", ["slow", "slowly+refused", "slowly+unavailable"])
async def test_peer_that_goes_during_its_handshake_is_forgotten(
    serve: Serve, token: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve() as served:
        async with await served.raw() as raw:
            raw.send(upgrade(f"/ws?token={token}"))
            await served.verifier.asked.wait()
        await until(lambda: not served.uvicorn.connections)
        served.verifier.answers.set()
        await until(lambda: not served.uvicorn.tasks)
        assert served.node.connections == []
    assert caplog.text == ""


async def test_shutdown_during_a_handshake_is_503() -> None:
    async with serving() as served, await served.raw() as raw:
        raw.send(upgrade("/ws?token=slow"))
        await served.verifier.asked.wait()
        for connection in list(served.uvicorn.connections):
            connection.shutdown()
        assert (await raw.problem())[0] == 503
        served.verifier.answers.set()
        await until(lambda: not served.uvicorn.tasks)
        assert served.node.connections == []


async def test_cancelled_handshake_drops_the_connection() -> None:
    async with serving() as served, await served.raw() as raw:
        raw.send(upgrade("/ws?token=slow"))
        await served.verifier.asked.wait()
        for task in served.uvicorn.tasks:
            task.cancel()
        assert await raw.rest() == b""


# ------------------------------------------------------------------------------------------------- secrets


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        (f"/ws?token={SECRET}", {}),
        (f"/ws?ticket={SECRET}", {}),
        (f"/elsewhere?token={SECRET}", {}),
        ("/ws", {"sec_websocket_protocol": f"gateway.v1.json, bearer.{SECRET}"}),
        ("/ws", {"sec_websocket_protocol": f"bearer.{SECRET}"}),
        ("/ws", {"authorization": f"Bearer {SECRET}"}),
        (f"/ws?token={SECRET}", {"sec_websocket_version": "8"}),
    ],
)
async def test_no_log_line_holds_a_credential(
    path: str, headers: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with serving() as served, await served.raw() as raw:
        logging.getLogger("uvicorn.error").setLevel(logging.DEBUG)
        raw.send(upgrade(path, **headers))
        response = await raw.response()
        raw.send(close_frame())
        answer = repr(response).encode() + await raw.rest()
        assert SECRET not in repr(served.log.events)
        assert SECRET.encode() not in answer
    assert SECRET not in caplog.text


async def test_frames_are_not_logged_even_for_debugging(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with serving() as served:
        logging.getLogger("uvicorn.error").setLevel(logging.DEBUG)
        async with await served.upgraded() as raw:
            raw.send(text(SECRET))
            assert await raw.frame() == (0x81, SECRET.encode())
    assert SECRET not in caplog.text
