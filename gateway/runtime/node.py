"""This node: what its connections share, who may still come, and the news that reaches all of them.

Owns admission within the limits, the timer wheel, changes of policy and accounts, and the tasks of connections. Refuses to own
what one connection says (`connection`) and how the process starts and stops (`lifecycle`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from gateway.core import effects
from gateway.core.commands import ActionRegistry
from gateway.core.decision import Policy
from gateway.core.errors import Close, Closes, Refusal, refusal_close
from gateway.core.events import Event
from gateway.core.principal import Principal
from gateway.core.session import Session
from gateway.core.session_events import RolesChanged
from gateway.core.session_ports import Publisher, SessionLimits
from gateway.core.signing import SERVER_NONCE_BYTES, Signer, Verifier, derive_keys, encode_base64url
from gateway.runtime.admission import Admission
from gateway.runtime.connection import LINGER_S, Connection
from gateway.runtime.extensions import ActionHandler, Extensions, Invocation
from gateway.runtime.fan_out import FanOut
from gateway.runtime.hub import Hub
from gateway.runtime.intake import ConnectionIntake
from gateway.runtime.ports import Broker, Change, ChangeKind, CredentialVerifier, Log, Metrics, Transport
from gateway.runtime.witness import Witness

TICK_S = 0.25
"""How exact deadlines of connections are."""

SWEEP = 500
"""Connections that hear of a change before the loop may turn to others."""


@dataclass(frozen=True, slots=True)
class NodeLimits:
    """What one node takes on.

    Args:
        max_connections: Connections in all.
        max_connections_per_user: Connections of one subject in one tenant.
        max_connections_per_address: Connections from one address (IPv6: one /64).
        send_buffer_bytes: What may wait for one slow consumer before it is cut off.
        session: What one connection may use.
    """

    max_connections: int
    max_connections_per_user: int
    max_connections_per_address: int
    send_buffer_bytes: int
    session: SessionLimits


class Node:
    """The connections of this process.

    Args:
        policy: The policy that counts now.
        registry: The known actions.
        broker: Carries messages; already built, not yet attached.
        verifier: Proves the tokens of `session.refresh`.
        metrics: Counts.
        log: Tells.
        limits: What this node takes on.
        clock: Unix seconds.
        timer: Seconds on a clock that only runs forward, for durations.
        entropy: Gives so many random bytes.
        handlers: What carries out the registered actions that are not built in.
    """

    def __init__(
        self,
        *,
        policy: Policy,
        registry: ActionRegistry,
        broker: Broker,
        verifier: CredentialVerifier,
        metrics: Metrics,
        log: Log,
        limits: NodeLimits,
        clock: Callable[[], float],
        timer: Callable[[], float],
        entropy: Callable[[int], bytes],
        handlers: Mapping[str, ActionHandler],
    ) -> None:
        self.policy = policy
        self.broker = broker
        self.verifier = verifier
        self.metrics = metrics
        self.limits = limits
        self.send_buffer_bytes = limits.send_buffer_bytes
        self.clock = clock
        self.timer = timer
        self.unsent: list[Connection] = []
        """Who is being answered: what they are told may still wait, and nothing that is delivered may come before it."""
        self.fan_out = FanOut(metrics, self._answer_first, self._let_go_on)
        self._asked_to_wait: list[Connection] = []
        self.intake = ConnectionIntake(self)
        self.hub = Hub(self.fan_out, metrics)
        self.draining = False
        self.opened = 0
        """Connections taken in since the start."""
        self._registry = registry
        self._log = log
        self._entropy = entropy
        self._extensions = Extensions(handlers, log)
        self._witness = Witness(metrics, log, timer, lambda: self.policy.version)
        self._connections: dict[str, Connection] = {}
        self._wheel: dict[int, set[Connection]] = {}
        self._tick = 0
        self._publisher = broker if broker.in_process and isinstance(broker, Publisher) else None
        self._tasks: set[asyncio.Task[None]] = set()
        self._policy_changed = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        broker.attach(self.hub)
        metrics.watch("gateway_channels", self.hub.channels)
        metrics.watch("gateway_subscriptions", self.hub.subscriptions)

    # ------------------------------------------------------------------------------------------------ coming and going

    def open(self, admission: Admission, transport: Transport) -> Connection | None:
        """Take in a connection whose handshake is complete, and welcome it; or close it, and answer None."""
        refused, detail = self._refuse(admission)
        principal = self.verifier.current(admission.credential.principal)
        if refused is not None:
            self.metrics.connection_attempt(refused.reason)
            self._log.info(
                Event.CONNECTION_REFUSED,
                code=refused.code,
                reason=refused.reason,
                detail=detail,
                subject=principal.subject,
                tenant=principal.tenant,
                remote_addr=admission.facts.ip,
            )
            transport.close(refused.code, refused.reason, LINGER_S)
            return None
        now = self.clock()
        session_id = encode_base64url(self._entropy(12))
        signer = verifier = nonce = None
        encoding, signing_key = admission.subprotocol.encoding, admission.credential.signing_key
        if admission.subprotocol.signed:
            if signing_key is None or admission.client_nonce is None:
                raise ValueError("a signed connection was admitted without a key or a nonce")
            server_nonce = self._entropy(SERVER_NONCE_BYTES)
            client_key, server_key = derive_keys(signing_key, admission.client_nonce, server_nonce)
            signer, verifier = Signer(server_key, encoding), Verifier(client_key, encoding)
            nonce = encode_base64url(server_nonce)
        connection = Connection(self, transport, admission, now)
        session = Session(
            session_id=session_id,
            principal=principal,
            policy=self.policy,
            registry=self._registry,
            encoding=encoding,
            facts=admission.facts,
            limits=self.limits.session,
            signer=signer,
            verifier=verifier,
            observer=self._witness,
            carrier=connection,
            publisher=self._publisher,
            now=now,
        )
        connection.begin(session, nonce)
        self._connections[session_id] = connection
        self.opened += 1
        self._empty.clear()
        self.hub.add(connection)
        self.metrics.connection_attempt("accepted")
        self.metrics.connection_opened()
        self._log.info(
            Event.CONNECTION_ACCEPTED,
            session=session_id,
            subject=principal.subject,
            tenant=principal.tenant,
            remote_addr=admission.facts.ip,
            subprotocol=admission.subprotocol.name,
        )
        self._schedule(connection)
        return connection

    def _answer_first(self) -> None:
        """Send what waits to be sent."""
        for connection in self.unsent:
            connection.flush()

    def ask_to_wait(self, connection: Connection) -> None:
        """Read no more from a connection until what it and others have published has gone out."""
        if connection.hold():
            self._asked_to_wait.append(connection)

    def _let_go_on(self) -> None:
        waiting, self._asked_to_wait = self._asked_to_wait, []
        for connection in waiting:
            connection.go_on()

    def _refuse(self, admission: Admission) -> tuple[Close | None, str]:
        """Look once more whether the credential still counts, and whether there is room; say which limit for the log."""
        principal, limits = admission.credential.principal, self.limits
        if self.draining:  # its handshake had begun before
            return Closes.DRAINING, ""
        if self.verifier.is_revoked(principal):
            return refusal_close(Refusal.REVOKED_TOKEN), ""
        if len(self._connections) >= limits.max_connections:
            return Closes.CONNECTION_LIMIT, "of the node"
        if self.hub.count_subject(principal.tenant, principal.subject) >= limits.max_connections_per_user:
            return Closes.CONNECTION_LIMIT, "of the user"
        if self.hub.count_address(admission.address_key) >= limits.max_connections_per_address:
            return Closes.CONNECTION_LIMIT, "of the address"
        return None, ""

    def left(self, connection: Connection) -> None:
        """Deliver to a connection no longer; its socket may linger."""
        self.hub.remove(connection)

    def closed(self, connection: Connection, code: int, reason: str) -> None:
        """Forget a connection whose transport has gone."""
        del self._connections[connection.session_id]
        self._unschedule(connection)
        if not self._connections:
            self._empty.set()
        duration_s = max(0.0, self.clock() - connection.opened_at)
        self.metrics.connection_closed(code, duration_s)
        self._log.info(
            Event.CONNECTION_CLOSED,
            session=connection.session_id,
            subject=connection.principal.subject,
            tenant=connection.principal.tenant,
            remote_addr=connection.facts.ip,
            code=code,
            reason=reason,
            duration_s=round(duration_s, 3),
        )

    def connections(self) -> list[Connection]:
        """List the connections."""
        return list(self._connections.values())

    async def wait_empty(self) -> None:
        """Wait until the last connection has gone."""
        await self._empty.wait()

    # ------------------------------------------------------------------------------------------------ work of connections

    def spawn(self, work: Coroutine[Any, Any, None], connection: Connection) -> None:
        """Run work of a connection beside it; what it does not expect ends the connection."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(lambda ended: self._ended(ended, connection))

    def _ended(self, task: asyncio.Task[None], connection: Connection) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self.failed(connection, error)

    def failed(self, connection: Connection, fault: BaseException) -> None:
        """End a connection for whatever was raised while something of it was done: the last rung, for this one and no other."""
        self._log.error(Event.CONNECTION_FAILED, session=connection.session_id, exc_info=fault)
        try:
            connection.end(Closes.INTERNAL)
        except Exception as another:  # noqa: BLE001 - there is no rung below: whoever called goes on with the others
            self._log.error(Event.CONNECTION_FAILED, session=connection.session_id, exc_info=another)
            connection.port.abort()

    def _guarded(self, connection: Connection, do: Callable[[], None]) -> None:
        """Do something for one of many connections: a fault ends that one, and the others have their turn."""
        try:
            do()
        except Exception as fault:  # noqa: BLE001 - the last rung, as for what its peer sends
            self.failed(connection, fault)

    def run_aside(self, work: Coroutine[Any, Any, object], connection: Connection) -> None:
        """Run work that nobody waits for: at once where the broker is in this process."""
        if not self.broker.in_process:
            self.spawn(_drop_result(work), connection)
            return
        try:
            work.send(None)
        except StopIteration:
            return
        work.close()
        raise RuntimeError("a broker that says it is in this process has waited")

    async def invoke(self, effect: effects.Invoke, connection: Connection) -> object:
        """Call the registered handler of an action; see `Extensions.invoke`."""
        invocation = Invocation(connection.principal, connection.facts, effect.action, effect.channel, effect.data)
        return await self._extensions.invoke(invocation, session=connection.session_id, command_id=effect.id)

    def adopted(self, connection: Connection, principal: Principal) -> None:
        """Note that a connection speaks with another token or other roles: its deadlines move."""
        self._schedule(connection)
        self._log.info(
            Event.SESSION_REFRESHED,
            session=connection.session_id,
            subject=principal.subject,
            tenant=principal.tenant,
            roles=principal.roles,
        )

    # ------------------------------------------------------------------------------------------------ news

    def adopt_policy(self, policy: Policy) -> None:
        """Let another policy count: at once for new commands; `follow_policy` brings it to what is open."""
        self.policy = policy
        self.metrics.policy_version(policy.version)
        self._policy_changed.set()

    async def follow_policy(self) -> None:
        """Hold what is open against each new policy, in parts, until cancelled."""
        while True:
            await self._policy_changed.wait()
            self._policy_changed.clear()
            for part in _parts(self.connections()):
                for connection in part:
                    self._guarded(connection, connection.adopt_policy)
                await asyncio.sleep(0)

    def apply(self, change: Change) -> None:
        """Let a change of accounts, tokens or families reach the connections that it touches."""
        touched = self._touched(change)
        for connection in touched:
            match change.kind:
                case ChangeKind.ROLES:
                    connection.tell(RolesChanged(change.roles, self.clock()))
                case ChangeKind.SUBJECT_ENDED:
                    connection.end(Closes.SESSION_REVOKED)
                case _:
                    connection.end(Closes.REVOKED_TOKEN)
        if touched:
            self.metrics.revocation(max(0.0, self.clock() - change.at))
        self._tell_change(change, len(touched))

    def _tell_change(self, change: Change, connections: int) -> None:
        """Log a change, once on each node."""
        log = self._log
        match change.kind:
            case ChangeKind.ROLES:
                log.info(Event.ACCOUNT_CHANGED, subject=change.subject, roles=change.roles, connections=connections)
            case ChangeKind.SUBJECT_ENDED:
                log.warning(Event.ACCOUNT_ENDED, subject=change.subject, connections=connections)
            case ChangeKind.TOKEN_REVOKED | ChangeKind.FAMILY_REVOKED:
                named = "jti" if change.kind is ChangeKind.TOKEN_REVOKED else "family"
                log.warning(
                    Event.TOKEN_REVOKED,
                    reason=change.kind,
                    subject=change.subject,
                    issuer=change.issuer,
                    connections=connections,
                    **{named: change.key},
                )
            case ChangeKind.KEYS:
                log.warning(Event.KEYS_CHANGED, connections=connections)

    def _touched(self, change: Change) -> list[Connection]:
        """List the connections that a change is about; tokens issued after it are not."""
        match change.kind:
            case ChangeKind.ROLES:
                return self._of_subject(change.subject)
            case ChangeKind.SUBJECT_ENDED:
                # By the verifier, which has heard of it first, and not by times: clocks of nodes differ, `iat` has whole seconds.
                return [c for c in self._of_subject(change.subject) if self.verifier.is_revoked(c.principal)]
            case ChangeKind.TOKEN_REVOKED:
                named = (change.issuer, change.key)
                return [c for c in self.connections() if (c.principal.token.issuer, c.principal.token.jti) == named]
            case ChangeKind.FAMILY_REVOKED:
                named = (change.issuer, change.key)
                return [c for c in self.connections() if (c.principal.token.issuer, c.principal.token.family) == named]
            case ChangeKind.KEYS:
                return [c for c in self.connections() if self.verifier.is_revoked(c.principal)]

    def _of_subject(self, subject: str) -> list[Connection]:
        return [self._connections[name] for name in self.hub.sessions_of(subject)]

    # ------------------------------------------------------------------------------------------------ time

    def _schedule(self, connection: Connection) -> None:
        tick = max(self._tick + 1, int(connection.next_deadline() / TICK_S) + 1)
        if tick == connection.deadline:
            return  # a peer that refreshes its session again and again has one place there, not one for each time
        self._unschedule(connection)
        connection.deadline = tick
        self._wheel.setdefault(tick, set()).add(connection)

    def _unschedule(self, connection: Connection) -> None:
        """Free a place on the wheel: what has gone is not to be kept until its time would have come."""
        place = self._wheel.get(connection.deadline)
        if place is not None:
            place.discard(connection)
            if not place:
                del self._wheel[connection.deadline]

    async def keep_time(self) -> None:
        """Look at the deadlines of connections, each at its own, until cancelled."""
        self._tick = int(self.clock() / TICK_S)
        while True:
            await asyncio.sleep(TICK_S)
            now = self.clock()
            last = int(now / TICK_S)
            due = [tick for tick in self._wheel if tick <= last]
            self._tick = last
            for tick in sorted(due):
                for part in _parts(list(self._wheel.pop(tick, ()))):
                    for connection in part:
                        if connection.deadline == tick and connection.session_id in self._connections:
                            self._guarded(connection, partial(connection.look_at_deadlines, now))
                            self._schedule(connection)
                    await asyncio.sleep(0)


async def _drop_result(work: Coroutine[Any, Any, object]) -> None:
    await work


def _parts(connections: list[Connection]) -> Iterator[list[Connection]]:
    for start in range(0, len(connections), SWEEP):
        yield connections[start : start + SWEEP]
