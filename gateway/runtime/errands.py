"""What commands ask of the broker: publications, histories, presence, messages to people. One function for each.

Owns the shape of the answers and the bound on their size. Refuses to own the connection that asks: all that is needed of it comes
as arguments.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gateway.core import effects
from gateway.core.decision import ChannelOptions
from gateway.core.frames import ENCODERS, Encoding
from gateway.core.principal import Principal
from gateway.runtime.ports import Broadcast, Broker, Direct, Message, Page

MAX_RECOVERED = 10_000
"""Messages that one recovery reads; a client that has missed more begins anew."""

Answer = dict[str, object]


async def publish(broker: Broker, options: ChannelOptions, effect: effects.Publish, sender: str, now: float) -> Answer:
    """Publish; answer the position where the channel keeps history."""
    position = await broker.publish(effect.channel, effect.data, sender, now, options)
    return {} if position is None else {"offset": position.offset, "epoch": position.epoch}


async def position_and_missed(
    broker: Broker, options: ChannelOptions, effect: effects.Subscribe, encoding: Encoding, room_bytes: int
) -> Answer:
    """Tell a new subscriber where the channel stands, with all that it has missed, or nothing of it.

    Args:
        broker: Where the history is.
        options: Those of the channel.
        effect: What was asked.
        encoding: How the answer will be written.
        room_bytes: What it may hold.
    """
    answer: Answer = {"recovered": False, "messages": []}
    position = await broker.position(effect.channel, options)
    if position is None:
        return answer
    answer.update(epoch=position.epoch, offset=position.offset)
    recover = effect.recover
    if recover is None or recover.epoch != position.epoch or recover.offset > position.offset:
        return answer
    page = await broker.history(effect.channel, options, limit=MAX_RECOVERED, after=recover.offset, before=None)
    if page.position is not None and len(page.messages) == page.position.offset - recover.offset:
        messages = _fit(page.messages, encoding, room_bytes, oldest_first=True)
        if len(messages) == len(page.messages):
            answer.update(recovered=True, messages=messages, epoch=page.position.epoch, offset=page.position.offset)
    return answer


async def read_history(
    broker: Broker, options: ChannelOptions, effect: effects.ReadHistory, encoding: Encoding, room_bytes: int
) -> Answer:
    """Read part of a history; what does not fit is cut at the end that the question did not ask for."""
    page: Page = await broker.history(
        effect.channel, options, limit=effect.limit, after=effect.after, before=effect.before
    )
    answer: Answer = {"messages": _fit(page.messages, encoding, room_bytes, oldest_first=effect.after is not None)}
    if page.position is not None:
        answer.update(epoch=page.position.epoch, offset=page.position.offset)
    return answer


async def read_presence(broker: Broker, options: ChannelOptions, channel: str) -> Answer:
    """Tell who is present, and over how many connections."""
    if not options.presence:
        return {"members": []}
    counts: dict[str, int] = {}
    for (_, subject), connections in (await broker.members(channel)).items():
        counts[subject] = counts.get(subject, 0) + connections
    return {"members": [{"subject": subject, "connections": count} for subject, count in sorted(counts.items())]}


async def send_to_user(broker: Broker, effect: effects.SendToUser, sender: Principal, now: float) -> Answer:
    """Send to a user of the sender's tenant; answer how many connections got it."""
    return {"delivered": await broker.send(Direct(sender.tenant, effect.to, effect.data, sender.subject, now))}


async def send_to_tenant(broker: Broker, effect: effects.SendToTenant, sender: Principal, now: float) -> Answer:
    """Send to everybody of the sender's tenant."""
    await broker.broadcast(Broadcast(sender.tenant, effect.data, sender.subject, now))
    return {}


def _fit(
    messages: Sequence[Message], encoding: Encoding, room_bytes: int, *, oldest_first: bool
) -> list[dict[str, object]]:
    """Give as many messages as fit. What is cut off is never looked at: it may be a hundred times an answer."""
    encode = ENCODERS[encoding]
    kept: list[dict[str, object]] = []
    for message in messages if oldest_first else reversed(messages):
        entry = _entry(message, encoding)
        room_bytes -= len(encode(entry)) + 1
        if room_bytes < 0:
            break
        kept.append(entry)
    return kept if oldest_first else kept[::-1]


def _entry(message: Message, encoding: Encoding) -> dict[str, object]:
    data: object = message.data
    if encoding is not Encoding.JSON:
        data = msgspec.json.decode(message.data)
    return {"offset": message.offset, "data": data, "sender": message.sender, "at": message.at}
