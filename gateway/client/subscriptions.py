"""Which channels a client is subscribed to, how far it has seen each, and how it takes them up again.

Owns positions and the order of what was missed before what is new. Refuses to own when: see `client`.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from gateway.client.connection import Connection
from gateway.client.errors import CommandRefusedError, ProtocolViolationError
from gateway.client.events import Event, Gap, Position, Subscribed, SubscriptionLost
from gateway.core.frames import MessagePush, Push, UnsubscribedPush


class _Missed(msgspec.Struct):
    offset: int
    data: object
    sender: str
    at: float


class _SubscribeReply(msgspec.Struct):
    epoch: str | None = None
    offset: int | None = None
    recovered: bool = False
    messages: tuple[_Missed, ...] = ()


class Subscriptions:
    """The channels of one client.

    Args:
        emit: Takes each event in its order.
    """

    def __init__(self, emit: Callable[[Event], None]) -> None:
        self._emit = emit
        self._positions: dict[str, Position | None] = {}

    def __contains__(self, channel: str) -> bool:
        return channel in self._positions

    @property
    def channels(self) -> tuple[str, ...]:
        """The channels, in the order in which they were subscribed to."""
        return tuple(self._positions)

    def forget(self, channel: str) -> None:
        """Drop a channel, so that it is not taken up again."""
        self._positions.pop(channel, None)

    def follow(self, push: Push) -> None:
        """Move on with a push."""
        match push:
            case MessagePush(channel=channel, offset=int(offset), epoch=str(epoch)) if channel in self._positions:
                self._positions[channel] = Position(epoch, offset)
            case UnsubscribedPush(channel=channel, reason="permission_revoked"):
                self.forget(channel)

    async def subscribe(self, connection: Connection, channel: str, recover: Position | None) -> Subscribed:
        """Subscribe; what was missed is in the answer.

        Raises:
            CommandRefusedError: The gateway answered with an error.
            ConnectionEndedError: The connection ended first.
        """
        subscribed: Subscribed = await connection.command(
            "channel.subscribe", channel, _recover(recover), take=lambda reply: self._note(channel, reply)
        )
        return subscribed

    async def take_up_again(self, connection: Connection, channel: str) -> None:
        """Subscribe from the last position seen; what was missed stands among the events before anything newer.

        Raises:
            ConnectionEndedError: The connection ended first.
        """

        def take(reply: object) -> None:
            # Within the reading of the reply, before the reader looks at the first push behind it.
            subscribed = self._note(channel, reply)
            for message in subscribed.messages:
                self._emit(message)
            if not subscribed.recovered:
                self._emit(Gap(channel))

        try:
            await connection.command("channel.subscribe", channel, _recover(self._positions.get(channel)), take=take)
        except CommandRefusedError as refused:
            self.forget(channel)
            self._emit(SubscriptionLost(channel, refused))

    def _note(self, channel: str, data: object) -> Subscribed:
        """Set the position at once, so that the first push behind the reply moves it on."""
        try:
            reply = msgspec.convert(data, _SubscribeReply)
        except msgspec.ValidationError as wrong:
            raise ProtocolViolationError(f"a reply of another shape: {wrong}") from wrong
        position = None
        if reply.epoch is not None and reply.offset is not None:
            position = Position(reply.epoch, reply.offset)
        self._positions[channel] = position
        epoch = msgspec.UNSET if reply.epoch is None else reply.epoch
        messages = tuple(
            MessagePush(channel, missed.data, missed.sender, missed.at, missed.offset, epoch)
            for missed in reply.messages
        )
        return Subscribed(position, reply.recovered, messages)


def _recover(position: Position | None) -> object:
    if position is None:
        return msgspec.UNSET
    return {"recover": {"epoch": position.epoch, "offset": position.offset}}
