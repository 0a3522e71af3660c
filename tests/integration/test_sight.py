"""What an operator sees of a real gateway: every event with its fields, every metric moved, and no secret anywhere."""

from __future__ import annotations

import asyncio
import json
import re
import time
import urllib.parse
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from running_gateway import POLICY, RunningGateway, password
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from gateway.core.signing import decode_base64url

ROOM = "room:acme:1"
WAIT_S = 10.0

Start = Callable[..., Any]


async def closed_with(url: str, **options: Any) -> str:  # noqa: ANN401 - what the websockets client takes
    """Connect, and give the close reason, or the status of an upgrade that was refused."""
    try:
        async with connect(url, **options) as socket:
            await asyncio.wait_for(socket.recv(), WAIT_S)
            await socket.close()
            return ""
    except ConnectionClosed as closed:
        return closed.rcvd.reason if closed.rcvd else "1006"
    except InvalidStatus as refused:
        return str(refused.response.status_code)


async def test_no_credential_reaches_the_log_by_any_road(start: Start) -> None:
    gateway: RunningGateway = await start(log_level="debug")
    answer = await gateway.token("alice")
    token = answer["access_token"]
    header, claims, signature = token.split(".")
    spoiled = gateway.secrets.watch(f"{header}.{claims}.{signature[:-4]}AAAA", "spoiled token")
    opaque = gateway.secrets.watch("opaque-credential-of-a-stranger", "opaque token")

    for secret in (token, spoiled, opaque):
        await closed_with(f"{gateway.ws_url}?token={secret}")
        await closed_with(f"{gateway.ws_url}?t%6Fken={secret}&x=1")
        await closed_with(f"{gateway.ws_url}?nonce=x&ticket={secret}")
        await closed_with(gateway.ws_url, additional_headers={"Authorization": f"Bearer {secret}"})
        await closed_with(gateway.ws_url, subprotocols=["gateway.v1.json", f"bearer.{secret}"])
        await closed_with(f"{gateway.ws_url}elsewhere?token={secret}")
        await gateway.http.get("/nowhere", params={"token": secret})
        await gateway.http.get("/ws", params={"token": secret})
        await gateway.http.post("/ws/ticket", headers={"Authorization": f"Bearer {secret}"}, content=secret)
        await gateway.http.post("/token", content=f"grant_type={secret}&password={secret}&scope={secret}")
        await gateway.http.post("/token", data={"grant_type": "refresh_token", "refresh_token": secret})
        await gateway.http.post("/token", data={"grant_type": "password", "username": "alice", "password": secret})
        await gateway.http.post("/token", data={"grant_type": "client_credentials"}, auth=("billing", secret))
    ticket = await gateway.ticket(token)
    assert await closed_with(f"{gateway.ws_url}?ticket={ticket}") == ""
    assert await closed_with(f"{gateway.ws_url}?ticket={ticket}") == "invalid_ticket"
    peer = await gateway.peer("alice", answer=answer)
    await peer.refused("session.refresh", None, {"token": spoiled})
    await peer.refused("channel.publish", "room:other:x", {"password": password("alice")})

    await gateway.event("connection.refused", reason="invalid_ticket")
    log = gateway.log_path.read_bytes()
    assert log.count(b"\n") > 50
    for secret in (token, spoiled, signature, opaque, ticket, password("alice"), answer["signing_key"]):
        assert secret.encode() not in log
        assert urllib.parse.quote(secret, safe="").encode() not in log


async def test_a_connection_is_told_when_it_opens_and_when_it_closes(gateway: RunningGateway) -> None:
    peer = await gateway.peer("alice")
    known = {
        "session": peer.welcome["session"],
        "subject": "alice",
        "tenant": "acme",
        "remote_addr": "127.0.0.1",
    }
    accepted = await gateway.event("connection.accepted", **known)
    assert accepted["subprotocol"] == "gateway.v1.json"
    assert accepted["level"] == "info"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", accepted["timestamp"])

    await peer.do("channel.publish", ROOM, "x")
    await peer.socket.close(1000)
    closed = await gateway.event("connection.closed", **known, code=1000)
    assert closed["duration_s"] >= 0
    assert [line["event"] for line in gateway.events() if line.get("session") == known["session"]] == [
        "connection.accepted",
        "connection.closed",
    ]


async def test_a_handshake_and_its_lines_carry_one_request_id(gateway: RunningGateway) -> None:
    peer = await gateway.peer("alice")
    assert peer.socket.response is not None
    request_id = peer.socket.response.headers["x-request-id"]

    accepted = await gateway.event("connection.accepted")
    assert accepted["request_id"] == request_id
    answer = await gateway.http.get("/nowhere?a=1")
    line = await gateway.event("http.request", request_id=answer.headers["x-request-id"])
    assert (line["method"], line["path"], line["code"]) == ("GET", "/nowhere", 404)


async def test_a_refused_handshake_is_told_with_its_reason_and_counted(gateway: RunningGateway) -> None:
    assert await closed_with(gateway.ws_url) == "missing_credentials"

    line = await gateway.event("connection.refused", reason="missing_credentials")
    assert (line["code"], line["remote_addr"]) == (1008, "127.0.0.1")
    assert await gateway.metric("gateway_connection_attempts_total", outcome="missing_credentials") == 1
    assert await gateway.metric("gateway_connections") == 0


async def test_a_wrong_signature_is_told_and_counted(gateway: RunningGateway) -> None:
    peer = await gateway.peer("alice", signed=True)
    await peer.socket.send(f"s1.{'0' * 64}." + json.dumps({"id": 1, "action": "ping"}))
    await peer.socket.wait_closed()

    line = await gateway.event("signature.invalid", session=peer.welcome["session"])
    assert (line["subject"], line["reason"], line["level"]) == ("alice", "mismatch", "warning")
    closed = await gateway.event("connection.closed", session=peer.welcome["session"])
    assert (closed["code"], closed["reason"]) == (1008, "signature_invalid")
    assert await gateway.metric("gateway_signature_failures_total", reason="mismatch") == 1
    assert await gateway.metric("gateway_disconnections_total", code="1008") == 1


async def test_tokens_are_told_when_they_are_issued_refused_and_revoked(gateway: RunningGateway) -> None:
    answer = await gateway.token("alice")
    issued = await gateway.event("token.issued", grant="password")
    assert (issued["subject"], issued["tenant"], issued["client_id"]) == ("alice", "acme", "gateway")
    assert issued["remote_addr"] == "127.0.0.1"
    assert json.loads(decode_base64url(answer["access_token"].split(".")[1]))["jti"] == issued["jti"]

    wrong = {"grant_type": "password", "username": "alice", "password": "not her password"}
    assert (await gateway.http.post("/token", data=wrong)).status_code == 400
    refused = await gateway.event("token.refused", grant="password")
    assert (refused["reason"], refused["remote_addr"]) == ("invalid_grant", "127.0.0.1")

    form = {"grant_type": "refresh_token", "refresh_token": answer["refresh_token"]}
    second = gateway.keep((await gateway.http.post("/token", data=form)).json())
    form["refresh_token"] = second["refresh_token"]
    gateway.keep((await gateway.http.post("/token", data=form)).json())
    form["refresh_token"] = answer["refresh_token"]
    assert (await gateway.http.post("/token", data=form)).status_code == 400
    revoked = await gateway.event("token.revoked")
    assert (revoked["subject"], revoked["reason"]) == ("alice", "refresh_token_reused")

    assert await gateway.metric("gateway_tokens_issued_total", grant="password") == 1
    assert await gateway.metric("gateway_tokens_issued_total", grant="refresh_token") == 2
    assert await gateway.metric("gateway_token_failures_total", grant="password", reason="invalid_grant") == 1
    assert await gateway.metric("gateway_token_failures_total", grant="refresh_token", reason="invalid_grant") == 1


async def test_a_reload_is_told_and_counted_whether_it_was_taken_or_not(gateway: RunningGateway) -> None:
    first = gateway.gateway.node.policy.version
    gateway.policy_file.write_text(POLICY.replace("room:*:announcements", "room:*:news"))
    reloaded = await gateway.event("policy.reloaded")
    assert reloaded["policy"] != first
    assert await gateway.metric("gateway_policy_info", version=reloaded["policy"]) == 1
    assert await gateway.metric("gateway_policy_info", version=first) == 0

    gateway.policy_file.write_text(POLICY.replace("inherits: [viewer]", "inherits: [nobody]", 1))
    refused = await gateway.event("policy.refused")
    assert refused["level"] == "error"
    assert "policy.yaml" in json.dumps(refused)
    assert "nobody" in json.dumps(refused)
    assert await gateway.metric("gateway_policy_reloads_total", outcome="ok") == 1
    assert await gateway.metric("gateway_policy_reloads_total", outcome="error") == 1
    assert await gateway.metric("gateway_policy_info", version=reloaded["policy"]) == 1


async def test_a_flood_of_denials_is_ten_lines_a_second_and_counts(gateway: RunningGateway) -> None:
    alice = await gateway.peer("alice")
    for _ in range(40):
        await alice.refused("channel.publish", "room:acme:announcements", 1)
    await gateway.event("events.folded", folded="command.denied")
    await gateway.stop()

    folded = sum(line["count"] for line in gateway.events("events.folded"))
    assert folded > 0
    assert len(gateway.events("command.denied")) + folded == 40


async def test_every_metric_moves_and_none_names_anybody(gateway: RunningGateway) -> None:
    alice, vera = await gateway.peer("alice"), await gateway.peer("vera")
    await vera.do("channel.subscribe", ROOM)
    await alice.do("channel.publish", ROOM, {"text": "hi"})
    await vera.push("message")
    await alice.refused("no.such.action")
    assert await gateway.metric("gateway_connections") == 2
    assert await gateway.metric("gateway_channels") == 1
    assert await gateway.metric("gateway_subscriptions") == 1
    await gateway.gateway.identity.accounts.disable("alice")
    await asyncio.wait_for(alice.socket.wait_closed(), WAIT_S)
    await gateway.event("connection.closed", subject="alice")

    assert await gateway.metric("gateway_connection_attempts_total", outcome="accepted") == 2
    assert await gateway.metric("gateway_connection_duration_seconds_count") == 1
    assert await gateway.metric("gateway_commands_total", action="channel.publish", outcome="ok") == 1
    assert await gateway.metric("gateway_commands_total", action="unknown", outcome="unknown_action") == 1
    assert await gateway.metric("gateway_command_duration_seconds_count", action="channel.publish") == 1
    decided = {"action": "channel.publish", "effect": "allow", "reason": "rule"}
    assert await gateway.metric("gateway_decisions_total", **decided) == 1
    assert await gateway.metric("gateway_decision_seconds_count") >= 2
    assert await gateway.metric("gateway_revocation_seconds_count") >= 1
    assert await gateway.metric("gateway_messages_delivered_total") >= 1
    assert await gateway.metric("gateway_bytes_total", direction="in") > 0
    assert await gateway.metric("gateway_bytes_total", direction="out") > 0
    assert await gateway.metric("gateway_broker_up") == 1
    assert await gateway.metric("gateway_broker_publish_seconds_count") == 1
    assert await gateway.metric("process_open_fds") > 0
    deadline = time.monotonic() + WAIT_S
    while await gateway.metric("gateway_event_loop_lag_seconds_count") == 0:
        assert time.monotonic() < deadline

    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    text = (await gateway.http.get("/metrics", headers=accept)).text
    assert len(list(parse_openmetrics(text))) > 20
    for identity in ("alice", "vera", "acme", ROOM, "127.0.0.1", str(alice.welcome["session"])):
        assert identity not in text


async def test_probes_answer_and_metrics_ask_for_their_token(start: Start) -> None:
    gateway: RunningGateway = await start(metrics_token="a-token-for-the-scraper-only")
    gateway.secrets.watch("a-token-for-the-scraper-only", "metrics token")

    assert (await gateway.http.get("/readyz")).json() == {
        "status": "ready",
        "checks": {"database": "ok", "broker": "ok"},
    }
    assert (await gateway.http.get("/metrics")).status_code == 401
    bearer = {"Authorization": "Bearer a-token-for-the-scraper-only"}
    assert (await gateway.http.get("/metrics", headers=bearer)).status_code == 200


@pytest.mark.parametrize("proxies", ["127.0.0.0/8", ""])
async def test_the_address_in_the_log_is_the_clients_behind_a_trusted_proxy_only(start: Start, proxies: str) -> None:
    gateway: RunningGateway = await start(trusted_proxies=proxies)
    await closed_with(gateway.ws_url, additional_headers={"X-Forwarded-For": "192.0.2.66"})

    refused = await gateway.event("connection.refused")
    assert refused["remote_addr"] == ("192.0.2.66" if proxies else "127.0.0.1")
    answer = await gateway.http.get("/metrics", headers={"X-Forwarded-For": "192.0.2.66"})
    assert answer.status_code == (403 if proxies else 200)
