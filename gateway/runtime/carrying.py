"""What an authorized command asks of the world, carried out for the connection that has sent it: a function for each effect.

Owns when it is carried out (at once over a broker in this process, else beside the connection) and what stands before its answer.
Refuses to own whether it may be (the session's), and what a broker is asked (`errands`).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any

from gateway.core import effects
from gateway.core.batches import MAX_JOINED_BYTES
from gateway.core.errors import CommandError, ErrorCode, HandshakeRefusedError, Refusal, StateUnavailableError
from gateway.core.session_events import Completed, Event, Failed, Refreshed
from gateway.core.session_ports import PENDING
from gateway.runtime import errands
from gateway.runtime.held import Held

if TYPE_CHECKING:
    from gateway.core.decision import ChannelOptions
    from gateway.runtime.connection import Connection


def _answer(connection: Connection, command_id: int, work: Coroutine[Any, Any, object]) -> object:
    """Carry a command out: at once where the broker is in this process, else as a task."""
    if not connection.node.broker.in_process:
        connection.node.spawn(_answer_later(connection, command_id, work), connection)
        return PENDING
    try:
        work.send(None)
    except StopIteration as result:
        return result.value
    except StateUnavailableError as error:
        raise _as_command_error(error) from None
    work.close()
    raise RuntimeError("a broker that says it is in this process has waited")


async def _answer_later(connection: Connection, command_id: int, work: Coroutine[Any, Any, object]) -> None:
    event: Event
    try:
        event = Completed(command_id, await work, connection.node.clock())
    except (CommandError, StateUnavailableError) as error:
        event = Failed(command_id, _as_command_error(error), connection.node.clock())
    connection.tell(event)


def _as_command_error(error: CommandError | StateUnavailableError) -> CommandError:
    if isinstance(error, CommandError):
        return error
    return CommandError(ErrorCode.UNAVAILABLE, "the gateway cannot do this now; try again")


def _make_room(connection: Connection) -> None:
    """Send large answers that wait before one more is made: those of a whole batch would be many times the send buffer.

    Raises:
        CommandError: `unavailable`: the peer has not read the last ones.
    """
    if connection.outbox.waiting_bytes > MAX_JOINED_BYTES:
        connection.flush()
    if connection.port.buffered_bytes() > connection.max_buffered_bytes:
        raise CommandError(ErrorCode.UNAVAILABLE, "too many answers wait to be read")


def _options(connection: Connection, channel: str) -> ChannelOptions:
    return connection.policy.channel_options(channel)


def _room_bytes(connection: Connection) -> int:
    """Tell what one answer may hold: half of the send buffer, so that it never fills it alone."""
    return connection.max_buffered_bytes // 2


# ----------------------------------------------------------------------------------------------------- channels


def _carry_publish(connection: Connection, effect: effects.Publish) -> object:
    answer = _answer(connection, effect.id, _publish(connection, effect))
    connection.catch_up(effect.channel)
    return answer


async def _publish(connection: Connection, effect: effects.Publish) -> object:
    node = connection.node
    started = node.timer()
    subject, options = connection.principal.subject, _options(connection, effect.channel)
    answer = await errands.publish(node.broker, options, effect, subject, node.clock())
    node.metrics.broker_publish(node.timer() - started)
    return answer


def _carry_subscribe(connection: Connection, effect: effects.Subscribe) -> object:
    node = connection.node
    _make_room(connection)
    if node.broker.in_process:
        connection.catch_up(effect.channel)
        return _answer(connection, effect.id, _subscribe(connection, effect, connection))
    node.spawn(_subscribe_later(connection, effect), connection)
    return PENDING


async def _subscribe_later(connection: Connection, effect: effects.Subscribe) -> None:
    """Subscribe over a broker that waits: what comes before the reply is held back behind it."""
    hub, channel, subscriptions = connection.node.hub, effect.channel, connection.session.subscriptions
    held = Held(connection)
    if channel in subscriptions:
        connection.catch_up(channel)
        connection.flush()
        hub.replace(connection, held, channel)
    await _answer_later(connection, effect.id, _subscribe(connection, effect, held))
    if channel not in subscriptions:  # the broker failed, or the connection has gone meanwhile
        await end_subscription(connection, channel, held)
        return
    held.pushes += hub.due(held, channel)
    hub.replace(held, connection, channel)
    connection.put(held.behind_the_reply())
    connection.flush()


async def _subscribe(connection: Connection, effect: effects.Subscribe, recipient: Connection | Held) -> object:
    node, channel = connection.node, effect.channel
    options = _options(connection, channel)
    if node.hub.subscribe(recipient, channel):
        await node.broker.subscribe(channel)
    if options.presence:
        await be_present(connection, channel, present=True)
    answer = await errands.position_and_missed(
        node.broker, options, effect, connection.encoding, _room_bytes(connection)
    )
    offset = answer.get("offset")
    if isinstance(recipient, Held) and isinstance(offset, int):
        recipient.upto = offset
    return answer


async def be_present(connection: Connection, channel: str, *, present: bool) -> None:
    """Let a connection count among those that are on a channel, or no longer."""
    principal, broker = connection.principal, connection.node.broker
    move = broker.join if present else broker.leave
    await move(channel, principal.tenant, principal.subject, connection.session_id)


def _carry_unsubscribe(connection: Connection, effect: effects.Unsubscribe) -> object:
    connection.catch_up(effect.channel)
    if effect.id is None:
        raise ValueError("an unsubscribe that nobody asked for is not carried out as a command")
    return _answer(connection, effect.id, end_subscription(connection, effect.channel, connection))


async def end_subscription(connection: Connection, channel: str, recipient: Connection | Held) -> object:
    """Deliver a channel's messages to a recipient no longer; the answer to an unsubscribe is empty."""
    node = connection.node
    last = node.hub.unsubscribe(recipient, channel)
    await be_present(connection, channel, present=False)
    if last:
        await node.broker.unsubscribe(channel)
    return {}


def _carry_read_history(connection: Connection, effect: effects.ReadHistory) -> object:
    _make_room(connection)
    connection.catch_up(effect.channel)
    options, room_bytes = _options(connection, effect.channel), _room_bytes(connection)
    work = errands.read_history(connection.node.broker, options, effect, connection.encoding, room_bytes)
    return _answer(connection, effect.id, work)


def _carry_read_presence(connection: Connection, effect: effects.ReadPresence) -> object:
    channel = effect.channel
    connection.catch_up(channel)
    work = errands.read_presence(connection.node.broker, _options(connection, channel), channel)
    return _answer(connection, effect.id, work)


# ----------------------------------------------------------------------------------------------------- people


def _carry_send_to_user(connection: Connection, effect: effects.SendToUser) -> object:
    node = connection.node
    work = errands.send_to_user(node.broker, effect, connection.principal, node.clock())
    return _answer(connection, effect.id, work)


def _carry_send_to_tenant(connection: Connection, effect: effects.SendToTenant) -> object:
    node = connection.node
    work = errands.send_to_tenant(node.broker, effect, connection.principal, node.clock())
    return _answer(connection, effect.id, work)


# ----------------------------------------------------------------------------------------------------- what always waits


def _carry_verify_token(connection: Connection, effect: effects.VerifyToken) -> object:
    connection.node.spawn(_verify_token(connection, effect), connection)
    return PENDING


async def _verify_token(connection: Connection, effect: effects.VerifyToken) -> None:
    node = connection.node
    event: Event
    try:
        credential = await node.verifier.verify_token(effect.token, node.clock())
        if node.verifier.is_revoked(credential.principal):  # the news came while the token was being proven
            raise HandshakeRefusedError(Refusal.REVOKED_TOKEN)  # noqa: TRY301 - answered as every unusable token is
    except HandshakeRefusedError as error:
        refused = CommandError(ErrorCode.INVALID_DATA, f"the token cannot be used: `{error.refusal.value}`")
        event = Failed(effect.id, refused, node.clock())
    except StateUnavailableError as error:
        event = Failed(effect.id, _as_command_error(error), node.clock())
    else:
        event = Refreshed(effect.id, node.verifier.current(credential.principal), node.clock())
    connection.tell(event)


def _carry_invoke(connection: Connection, effect: effects.Invoke) -> object:
    node = connection.node
    node.spawn(_answer_later(connection, effect.id, node.invoke(effect, connection)), connection)
    return PENDING


CARRY: Mapping[type, Callable[[Connection, Any], object]] = {
    effects.Publish: _carry_publish,
    effects.Subscribe: _carry_subscribe,
    effects.Unsubscribe: _carry_unsubscribe,
    effects.ReadHistory: _carry_read_history,
    effects.ReadPresence: _carry_read_presence,
    effects.SendToUser: _carry_send_to_user,
    effects.SendToTenant: _carry_send_to_tenant,
    effects.VerifyToken: _carry_verify_token,
    effects.Invoke: _carry_invoke,
}
"""What carries out each effect of a command: gives the answer, or `PENDING` where it comes later."""
