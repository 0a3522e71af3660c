"""One function for each built-in action: an authorized, well-formed command to what it asks of the runtime, or to its answer.

Owns what an action means. Refuses to own any check that all actions share: the session has made them before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol, cast

import msgspec

from gateway.core import commands, effects
from gateway.core.decision import Permission
from gateway.core.errors import CommandError, ErrorCode
from gateway.core.principal import Principal


class Conversation(Protocol):
    """What a handler may see of the session."""

    @property
    def principal(self) -> Principal:
        """Give who acts."""
        ...

    @property
    def subscriptions(self) -> Mapping[str, object]:
        """Give the subscribed channels."""
        ...

    def has_room_for(self, channel: str) -> bool:
        """Tell whether the connection may subscribe to one more channel, or has subscribed to this one."""
        ...

    def may(self, action: str, channel: str, now: float | None = None) -> bool:
        """Ask the policy on behalf of another action."""
        ...

    def permissions(self, channel: str | None) -> list[Permission]:
        """List what the principal may do."""
        ...


class Answer(msgspec.Struct, frozen=True, gc=False):
    """A reply that needs nothing of the runtime."""

    data: object


Handler = Callable[[Conversation, int, "str | None", object], "effects.Effect | Answer"]
"""(conversation, command id, channel, converted data) to what is to be done. May raise CommandError."""

_NOTHING: Mapping[str, object] = MappingProxyType({})
_EMPTY = Answer(dict(_NOTHING))


def _ping(_conversation: Conversation, _id: int, _channel: str | None, _data: object) -> Answer:
    return _EMPTY


def _describe(conversation: Conversation, _id: int, _channel: str | None, _data: object) -> Answer:
    principal = conversation.principal
    return Answer(
        {
            "subject": principal.subject,
            "roles": principal.roles,
            "tenant": principal.tenant,
            "expires_at": principal.expires_at,
            "subscriptions": sorted(conversation.subscriptions),
        }
    )


def _permissions(conversation: Conversation, _id: int, channel: str | None, _data: object) -> Answer:
    granted = conversation.permissions(channel)
    return Answer({"actions": [{"action": each.action, "conditional": each.conditional} for each in granted]})


def _refresh(_conversation: Conversation, command_id: int, _channel: str | None, data: object) -> effects.VerifyToken:
    return effects.VerifyToken(command_id, cast("commands.RefreshData", data).token)


def _subscribe(conversation: Conversation, command_id: int, channel: str | None, data: object) -> effects.Subscribe:
    name = cast("str", channel)
    if not conversation.has_room_for(name):
        raise CommandError(ErrorCode.CHANNEL_LIMIT, "as many channels are subscribed as one connection may")
    recover = cast("commands.SubscribeData", data).recover
    if recover is msgspec.UNSET or not conversation.may("channel.history", name):
        return effects.Subscribe(command_id, name, None)
    return effects.Subscribe(command_id, name, recover)


def _unsubscribe(
    conversation: Conversation, command_id: int, channel: str | None, _data: object
) -> effects.Unsubscribe | Answer:
    if channel not in conversation.subscriptions:
        return _EMPTY
    return effects.Unsubscribe(command_id, cast("str", channel))


def _publish(_conversation: Conversation, command_id: int, channel: str | None, data: object) -> effects.Publish:
    return effects.Publish(command_id, cast("str", channel), data)


def _history(_conversation: Conversation, command_id: int, channel: str | None, data: object) -> effects.ReadHistory:
    asked = cast("commands.HistoryData", data)
    before = None if asked.before is msgspec.UNSET else asked.before
    after = None if asked.after is msgspec.UNSET else asked.after
    return effects.ReadHistory(command_id, cast("str", channel), asked.limit, before, after)


def _presence(_conversation: Conversation, command_id: int, channel: str | None, _data: object) -> effects.ReadPresence:
    return effects.ReadPresence(command_id, cast("str", channel))


def _send(_conversation: Conversation, command_id: int, _channel: str | None, data: object) -> effects.SendToUser:
    asked = cast("commands.SendData", data)
    return effects.SendToUser(command_id, asked.to, asked.data)


def _broadcast(
    _conversation: Conversation, command_id: int, _channel: str | None, data: object
) -> effects.SendToTenant:
    return effects.SendToTenant(command_id, data)


HANDLERS: Mapping[str, Handler] = MappingProxyType(
    {
        "ping": _ping,
        "session.describe": _describe,
        "session.permissions": _permissions,
        "session.refresh": _refresh,
        "channel.subscribe": _subscribe,
        "channel.unsubscribe": _unsubscribe,
        "channel.publish": _publish,
        "channel.history": _history,
        "channel.presence": _presence,
        "user.send": _send,
        "broadcast": _broadcast,
    }
)
"""Every built-in action; an action that is registered but not here is invoked by the runtime."""
