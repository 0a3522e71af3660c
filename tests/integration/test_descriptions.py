"""What a gateway tells of itself: AsyncAPI and OpenAPI, in development only unless enabled."""

from __future__ import annotations

import jsonschema
import pytest
from running_gateway import RunningGateway, Start

from gateway.core.commands import BUILT_IN_ACTIONS
from gateway.core.frames import Encoding

DESCRIPTIONS = ["/docs", "/openapi.json", "/asyncapi.json"]


@pytest.mark.parametrize("path", DESCRIPTIONS)
async def test_descriptions_are_not_there_in_production_unless_enabled(start: Start, path: str) -> None:
    gateway = await start()
    assert (await gateway.http.get(path)).status_code == 404
    gateway = await start(docs="on")
    assert (await gateway.http.get(path)).status_code == 200


async def described(start: Start) -> tuple[RunningGateway, dict[str, dict[str, dict[str, object]]]]:
    gateway = await start(docs="on")
    return gateway, (await gateway.http.get("/asyncapi.json")).json()


def resolve(document: object, ref: str) -> object:
    for part in ref.removeprefix("#/").split("/"):
        assert isinstance(document, dict), ref
        document = document[part]
    return document


def refs(node: object) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [ref for value in node.values() for ref in refs(value)]
    return [ref for item in node for ref in refs(item)] if isinstance(node, list) else []


async def test_every_reference_of_the_asyncapi_document_leads_somewhere(start: Start) -> None:
    _, document = await described(start)
    assert document["asyncapi"] == "3.0.0"
    found = refs(document)
    assert len(found) > 50
    for ref in found:
        resolve(document, ref)


async def test_every_action_frame_and_channel_of_the_gateway_is_described(start: Start) -> None:
    gateway, document = await described(start)
    messages = document["components"]["messages"]
    assert {spec.name for spec in BUILT_IN_ACTIONS} <= set(messages)
    frames = {"welcome", "reply", "error", "message", "presence", "direct", "broadcast", "unsubscribed", "draining"}
    assert {f"frame.{frame}" for frame in frames} <= set(messages)
    assert [c["address"] for c in document["channels"].values()] == ["/ws", "room:{segment2}:{segment3}"]
    gateway.policy_file.write_text(gateway.policy_file.read_text().replace('match: "room:*:*"', 'match: "hall:**"'))
    await gateway.event("policy.reloaded")
    document = (await gateway.http.get("/asyncapi.json")).json()
    assert "hall:{segment2}" in [channel["address"] for channel in document["channels"].values()]


def payload_schema(document: dict[str, dict[str, dict[str, object]]], message: str) -> dict[str, object]:
    payload = document["components"]["messages"][message]["payload"]
    return {"components": document["components"], "allOf": [payload]}


@pytest.mark.parametrize("encoding", list(Encoding))
async def test_real_frames_fit_their_description(start: Start, encoding: Encoding) -> None:
    gateway, document = await described(start)
    alice = await gateway.peer("alice", encoding=encoding, signed=True)
    vera = await gateway.peer("vera", encoding=encoding)
    frames = [alice.welcome]
    await vera.do("channel.subscribe", "room:acme:1")
    for action, channel, data in [
        ("channel.subscribe", "room:acme:1", {"recover": {"epoch": "e", "offset": 1}}),
        ("channel.publish", "room:acme:1", {"x": 1}),
        ("channel.history", "room:acme:1", {"limit": 5}),
        ("user.send", None, {"to": "alice", "data": 1}),
        ("broadcast", None, None),
        ("channel.publish", "elsewhere", 1),
    ]:
        command = {"id": 1, "action": action, "data": data} | ({} if channel is None else {"channel": channel})
        jsonschema.validate(command, payload_schema(document, action))
        frames.append(await alice.ask(action, channel, data))
    frames += [*alice.pushes, await vera.push("presence"), await vera.push("message")]
    assert {frame["type"] for frame in frames} == {
        "welcome", "reply", "error", "message", "direct", "broadcast", "presence",
    }  # fmt: skip
    for frame in frames:
        jsonschema.validate(frame, payload_schema(document, f"frame.{frame['type']}"))


async def test_commands_that_the_gateway_refuses_do_not_fit_their_description(start: Start) -> None:
    _, document = await described(start)
    for action, command in [
        ("ping", {"id": 0, "action": "ping"}),
        ("ping", {"id": 1, "action": "ping", "extra": 1}),
        ("channel.publish", {"id": 1, "action": "channel.publish", "data": 1}),
        ("channel.history", {"id": 1, "action": "channel.history", "channel": "a", "data": {"limit": 0}}),
        ("user.send", {"id": 1, "action": "user.send"}),
    ]:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(command, payload_schema(document, action))


# ---------------------------------------------------------------------------------------------- OpenAPI


async def test_requests_and_answers_of_the_oauth_endpoints_fit_their_description(start: Start) -> None:
    gateway = await start(docs="on")
    document = (await gateway.http.get("/openapi.json")).json()
    token, ticket = document["paths"]["/token"]["post"], document["paths"]["/ws/ticket"]["post"]
    assert ticket["security"] == [{"HTTPBearer": []}]
    assert document["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    answers = await gateway.token("alice", scope="member")
    form = token["requestBody"]["content"]["application/x-www-form-urlencoded"]["schema"]
    bearer = {"Authorization": f"Bearer {answers['access_token']}"}
    for operation, sent, headers in [
        (token, {"grant_type": "refresh_token", "refresh_token": answers["refresh_token"]}, {}),
        (token, {"grant_type": "password", "username": "alice", "password": "x" * 12, "scope": "member"}, {}),
        (token, {"grant_type": "client_credentials", "client_id": "billing", "client_secret": "x"}, {}),
        (ticket, {"origin": "https://app.example.com"}, bearer),
        (ticket, {"origin": None}, {"Authorization": "Bearer junk"}),
        (ticket, {}, {}),
        (ticket, {"origin": "*"}, bearer),
    ]:
        if operation is token:
            jsonschema.validate(sent, form)
            assert set(sent) <= set(form["properties"])
            response = await gateway.http.post("/token", data=sent)
        else:
            jsonschema.validate(sent, ticket["requestBody"]["content"]["application/json"]["schema"])
            response = await gateway.http.post("/ws/ticket", json=sent, headers=headers)
        if response.status_code == 200:
            gateway.keep(response.json())
        described_answer = operation["responses"][str(response.status_code)]
        jsonschema.validate(response.json(), described_answer["content"]["application/json"]["schema"])
        for name in described_answer.get("headers", ()):
            assert name in response.headers
    assert "422" not in token["responses"]
    assert "422" not in ticket["responses"]
