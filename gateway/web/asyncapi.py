"""The description of what travels on the WebSocket, as AsyncAPI 3: actions, frames and channels of this very gateway.

Owns the document and its route. It is made anew at each request from the registry of actions and the policy that counts, so that
it cannot tell of a gateway that is not there. Refuses to own who may read it: the composition root leaves the route out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec
from fastapi import APIRouter, Response

from gateway.core.commands import ActionRegistry, ActionSpec, ChannelUse
from gateway.core.decision import ChannelOptions
from gateway.core.errors import ErrorCode
from gateway.core.frames import (
    MAX_ID,
    BroadcastPush,
    DirectPush,
    DrainingPush,
    ErrorFrame,
    ExpiringPush,
    MessagePush,
    PresencePush,
    Reply,
    UnsubscribedPush,
    Welcome,
)
from gateway.core.handshake import SUBPROTOCOLS

ASYNCAPI_VERSION = "3.0.0"
_SOCKET = "socket"
_SERVER_FRAMES: tuple[type[msgspec.Struct], ...] = (
    Welcome,
    Reply,
    ErrorFrame,
    MessagePush,
    PresencePush,
    DirectPush,
    BroadcastPush,
    UnsubscribedPush,
    ExpiringPush,
    DrainingPush,
)
_ON_CHANNELS = (MessagePush, PresencePush, UnsubscribedPush)

Channels = Iterable[tuple[str, ChannelOptions]]
Document = dict[str, object]


def asyncapi_document(registry: ActionRegistry, channels: Channels, public_url: str, version: str) -> Document:
    """Describe a gateway.

    Args:
        registry: Its actions.
        channels: The `channels` entries of its policy: patterns and options.
        public_url: Where it is reached.
        version: Its version.
    """
    schemas, frames = _frame_schemas()
    specs = [spec for name in registry.names() if (spec := registry.find(name)) is not None]
    messages: Document = {spec.name: _command_message(spec) for spec in specs}
    messages |= {_key(frame): _frame_message(frame, frames) for frame in _SERVER_FRAMES}
    described: Document = {_SOCKET: _socket_channel(messages)}
    operations: Document = {spec.name: _operation("receive", _SOCKET, [spec.name]) for spec in specs}
    operations["frames"] = _operation("send", _SOCKET, [_key(frame) for frame in _SERVER_FRAMES])
    for number, (pattern, options) in enumerate(channels, start=1):
        name = f"channel{number}"
        described[name] = _policy_channel(pattern, options)
        operations[name] = _operation("send", name, _channel_messages(options))
    scheme, _, rest = public_url.partition("://")
    host, _, path = rest.partition("/")
    return {
        "asyncapi": ASYNCAPI_VERSION,
        "info": {
            "title": "Portcullis",
            "version": version,
            "description": "Frames on `/ws`, in JSON or MessagePack, each with or without signatures: "
            + ", ".join(f"`{name}`" for name in SUBPROTOCOLS),
        },
        "defaultContentType": "application/json",
        "servers": {
            "gateway": {
                "host": host,
                "pathname": f"/{path}".rstrip("/"),
                "protocol": "wss" if scheme == "https" else "ws",
                "security": [{"$ref": "#/components/securitySchemes/bearer"}],
            }
        },
        "channels": described,
        "operations": operations,
        "components": {
            "messages": messages,
            "schemas": schemas,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def asyncapi_router(
    registry: ActionRegistry, channels: Callable[[], Channels], public_url: str, version: str
) -> APIRouter:
    """Make the route; `channels` is asked at each request, for policies change."""
    router = APIRouter()

    @router.get("/asyncapi.json", include_in_schema=False)
    async def asyncapi() -> Response:
        document = asyncapi_document(registry, channels(), public_url, version)
        return Response(msgspec.json.encode(document), media_type="application/json")

    return router


def _frame_schemas() -> tuple[Document, dict[type, str]]:
    schemas, components = msgspec.json.schema_components(
        _SERVER_FRAMES, schema_hook=_any_value, ref_template="#/components/schemas/{name}"
    )
    document: Document = dict(components)
    error = document["ErrorBody"]
    if isinstance(error, dict):
        error["properties"]["code"] = {"type": "string", "enum": [code.value for code in ErrorCode]}
    return document, {frame: schema["$ref"] for frame, schema in zip(_SERVER_FRAMES, schemas, strict=True)}


def _any_value(kind: type) -> Document:
    """Describe a payload, which may be any JSON."""
    if kind is not object:
        raise NotImplementedError(kind)
    return {"description": "any JSON value"}


def _key(frame: type[msgspec.Struct]) -> str:
    """Name a frame among the messages: an action may have the name of a frame, as `broadcast` has."""
    return f"frame.{_tag(frame)}"


def _tag(frame: type[msgspec.Struct]) -> str:
    return str(frame.__struct_config__.tag)


def _frame_message(frame: type[msgspec.Struct], refs: dict[type, str]) -> Document:
    return {"name": _tag(frame), "title": (frame.__doc__ or "").split("\n")[0], "payload": {"$ref": refs[frame]}}


def _command_message(spec: ActionSpec) -> Document:
    properties: Document = {
        "id": {"type": "integer", "minimum": 1, "maximum": MAX_ID},
        "action": {"type": "string", "const": spec.name},
    }
    required = ["id", "action"]
    if spec.channel is not ChannelUse.NONE:
        properties["channel"] = {"type": "string"}
    if spec.channel is ChannelUse.REQUIRED:
        required.append("channel")
    if spec.data is None:
        properties["data"] = True
        required.append("data")
    else:
        schema = msgspec.json.schema(spec.data, schema_hook=_any_value)
        properties["data"] = _inlined(schema)
        if any(field.required for field in msgspec.structs.fields(spec.data)):
            required.append("data")
    payload = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return {"name": spec.name, "title": f"the command `{spec.name}`", "payload": payload}


def _inlined(schema: Document) -> object:
    """Put definitions where they are referred to: a schema inside a message has no root of its own."""
    definitions = schema.get("$defs", {})

    def walk(node: object) -> object:
        if isinstance(node, dict):
            ref = node.get("$ref")
            if isinstance(ref, str) and isinstance(definitions, dict):
                return walk(definitions[ref.rpartition("/")[2]])
            return {key: walk(value) for key, value in node.items() if key != "$defs"}
        if isinstance(node, list):
            return [walk(item) for item in node]
        return node

    return walk(schema)


def _socket_channel(messages: Document) -> Document:
    return {
        "address": "/ws",
        "title": "The connection",
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
        "bindings": {
            "ws": {
                "query": {
                    "type": "object",
                    "properties": {
                        "ticket": {"type": "string", "description": "a single-use ticket of `POST /ws/ticket`"},
                        "nonce": {
                            "type": "string",
                            "description": "base64url of 16 to 32 bytes, on signed connections",
                        },
                    },
                },
                "bindingVersion": "0.1.0",
            }
        },
    }


def _channel_messages(options: ChannelOptions) -> list[str]:
    return [_key(frame) for frame in _ON_CHANNELS if frame is not PresencePush or options.presence]


def _policy_channel(pattern: str, options: ChannelOptions) -> Document:
    segments, parameters = [], {}
    for place, segment in enumerate(pattern.split(":"), start=1):
        if segment in {"*", "**"}:
            parameters[f"segment{place}"] = {
                "description": "one segment" if segment == "*" else "one segment or more, separated by colons"
            }
            segments.append(f"{{segment{place}}}")
        else:
            segments.append(segment)
    return {
        "address": ":".join(segments),
        "title": f"Channels `{pattern}`",
        "parameters": parameters,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in _channel_messages(options)},
        "x-history": {"messages": options.history_messages, "ttl_s": options.history_ttl_s},
        "x-presence": options.presence,
    }


def _operation(action: str, channel: str, messages: list[str]) -> Document:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in messages],
    }
