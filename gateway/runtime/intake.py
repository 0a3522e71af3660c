"""What has come over all connections in one turn of the loop, taken stage by stage: signatures, commands, answers, signatures again.

Owns the stages and their order. Refuses to own what any of them does. A stage runs for all connections before the next one begins:
each connection keeps its order, and the machine does one thing at a time, which takes a quarter off the whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, cast

from gateway.core.decision import Policy
from gateway.core.signing import Signer, sign_all, verify_all
from gateway.core.turn import Turn
from gateway.runtime.connection import Connection
from gateway.runtime.fan_out import FanOut
from gateway.runtime.ports import Answer, Metrics, Read

_ACTION = "channel.publish"


class Host(Protocol):
    """What an intake asks of its node."""

    policy: Policy
    metrics: Metrics
    clock: Callable[[], float]
    timer: Callable[[], float]
    fan_out: FanOut
    unsent: list[Connection]

    def ask_to_wait(self, connection: Connection) -> None:
        """Read no more from a connection until what it and others have published has gone out."""
        ...

    def failed(self, connection: Connection, fault: BaseException) -> None:
        """End a connection for a fault."""
        ...


class ConnectionIntake:
    """The intake of a node's connections; see `gateway.runtime.ports.Intake`.

    Args:
        node: Whose they are.
    """

    __slots__ = ("_node",)

    def __init__(self, node: Host) -> None:
        self._node = node

    def take(self, reads: list[Read], *, again: bool = False) -> list[Answer]:
        """Carry out what has come, each connection's in its order; give what is to be sent at once in answer."""
        node, fan_out = self._node, self._node.fan_out
        policy, turn, unsent = node.policy, Turn(node.clock(), node.timer()), node.unsent
        taken = cast("list[tuple[Connection, list[bytes]]]", reads)
        signed = [] if again else [(c.verifier, payloads, c) for c, payloads in taken if c.verifier is not None]
        unsound = dict(verify_all(signed))
        fan_out.wait = False
        for connection, bodies in taken:
            unsent.append(connection)  # before: what it wants may deliver to others at once
            try:
                if connection.policy is not policy:
                    connection.adopt_policy()
                wanted = connection.session.receive(bodies, turn)
                if wanted:
                    connection.do(wanted)
                if unsound and connection in unsound:
                    connection.do(connection.session.refuse_signature(unsound[connection]))
            except Exception as fault:  # noqa: BLE001 - the last rung: it ends this connection, and no other
                node.failed(connection, fault)
            if fan_out.wait:
                fan_out.wait = False
                node.ask_to_wait(connection)
        answers = _answers(unsent)
        unsent.clear()
        if turn.ends:
            node.metrics.published(_ACTION, turn)
        return answers


def _answers(connections: list[Connection]) -> list[Answer]:
    """Take what the connections have to say, signed where they sign."""
    answers: list[Answer] = []
    signing: list[tuple[Signer, list[bytes]]] = []
    for connection in connections:
        outbox = connection.outbox
        if connection.gone or not outbox.waiting:
            continue
        bodies = outbox.take()
        if outbox.signer is not None:
            signing.append((outbox.signer, bodies))
        answers.append((connection.port, bodies))
    sign_all(signing)
    return answers
