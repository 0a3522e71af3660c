"""The registry of actions: what each one takes, and the shape that its data must have.

Owns names and shapes. Refuses to own permission (`decision`) and effect (`handlers`): a command that leaves this room is known and
well formed, not yet allowed.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import msgspec

from gateway.core.channels import valid_channel
from gateway.core.errors import CommandError, ErrorCode
from gateway.core.frames import Command

MAX_HISTORY_LIMIT = 1000
MAX_EPOCH_CHARS = 128
"""What a subscription keeps of its subscribe must be short: far beyond any epoch, far below a frame."""
DEFAULT_HISTORY_LIMIT = 100
_MAX_OFFSET = 2**63 - 1
_Offset = Annotated[int, msgspec.Meta(ge=0, le=_MAX_OFFSET)]


class ChannelUse(enum.Enum):
    """Whether an action takes a channel."""

    NONE = "none"
    REQUIRED = "required"
    OPTIONAL = "optional"


class NoData(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an action takes that needs nothing: nothing, null or an empty object."""


class RecoverFrom(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The last position that the client has seen of a channel."""

    epoch: Annotated[str, msgspec.Meta(max_length=MAX_EPOCH_CHARS)]
    offset: _Offset


class SubscribeData(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `channel.subscribe` takes."""

    recover: RecoverFrom | msgspec.UnsetType = msgspec.UNSET


class HistoryData(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `channel.history` takes; bounds are exclusive."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_HISTORY_LIMIT)] = DEFAULT_HISTORY_LIMIT
    before: _Offset | msgspec.UnsetType = msgspec.UNSET
    after: _Offset | msgspec.UnsetType = msgspec.UNSET


class SendData(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `user.send` takes."""

    to: str
    data: object


class RefreshData(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `session.refresh` takes."""

    token: str


@dataclass(frozen=True, slots=True)
class ActionSpec:
    """One registered action.

    Args:
        name: Dotted, as commands and policies name it.
        channel: Whether it takes a channel.
        data: The struct that its data must fit; None for any payload, which then must be there.
        permission: Whether the policy is asked; a few actions need no permission.
    """

    name: str
    channel: ChannelUse = ChannelUse.NONE
    data: type[msgspec.Struct] | None = NoData
    permission: bool = True


BUILT_IN_ACTIONS = (
    ActionSpec("ping", permission=False),
    ActionSpec("session.describe", permission=False),
    ActionSpec("session.permissions", channel=ChannelUse.OPTIONAL, permission=False),
    ActionSpec("session.refresh", data=RefreshData, permission=False),
    ActionSpec("channel.subscribe", channel=ChannelUse.REQUIRED, data=SubscribeData),
    ActionSpec("channel.unsubscribe", channel=ChannelUse.REQUIRED, permission=False),
    ActionSpec("channel.publish", channel=ChannelUse.REQUIRED, data=None),
    ActionSpec("channel.history", channel=ChannelUse.REQUIRED, data=HistoryData),
    ActionSpec("channel.presence", channel=ChannelUse.REQUIRED),
    ActionSpec("user.send", data=SendData),
    ActionSpec("broadcast", data=None),
)
"""The actions that the gateway carries out itself."""


class ActionRegistry:
    """The actions that this gateway knows.

    Args:
        specs: Each name once.
    """

    __slots__ = ("_specs", "with_channel", "without_channel")

    def __init__(self, specs: Iterable[ActionSpec] = BUILT_IN_ACTIONS) -> None:
        self._specs: dict[str, ActionSpec] = {}
        for spec in specs:
            if spec.name in self._specs:
                raise ValueError(f"action `{spec.name}` is registered twice")
            self._specs[spec.name] = spec
        self.with_channel = tuple(s.name for s in self._specs.values() if s.channel is not ChannelUse.NONE)
        self.without_channel = tuple(s.name for s in self._specs.values() if s.channel is not ChannelUse.REQUIRED)

    def find(self, action: str) -> ActionSpec | None:
        """Give the action of that name."""
        return self._specs.get(action)

    def needs_permission(self, action: str) -> bool:
        """Tell whether the policy is asked for an action; for an unknown one it is."""
        spec = self._specs.get(action)
        return spec is None or spec.permission

    def names(self) -> tuple[str, ...]:
        """List every action, in the order of registration."""
        return tuple(self._specs)


def shape(spec: ActionSpec, command: Command) -> object:
    """Hold a command against its action; give its data, converted to the action's struct where it has one.

    Raises:
        CommandError: `invalid_data`: a channel too many, missing or malformed, or data of another shape.
    """
    channel, data = command.channel, command.data
    if channel is msgspec.UNSET:
        if spec.channel is ChannelUse.REQUIRED:
            raise CommandError(ErrorCode.INVALID_DATA, f"`{spec.name}` needs a channel")
    elif spec.channel is ChannelUse.NONE:
        raise CommandError(ErrorCode.INVALID_DATA, f"`{spec.name}` takes no channel")
    elif not valid_channel(channel):
        raise CommandError(ErrorCode.INVALID_DATA, "not a channel name")
    if spec.data is None:
        if data is msgspec.UNSET:
            raise CommandError(ErrorCode.INVALID_DATA, f"`{spec.name}` needs data")
        return data
    if data is msgspec.UNSET or data is None:
        data = {}
    try:
        return msgspec.convert(data, spec.data)
    except msgspec.ValidationError as error:
        raise CommandError(ErrorCode.INVALID_DATA, f"data of `{spec.name}`: {str(error)[:160]}") from None
