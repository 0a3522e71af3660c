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
from gateway.runtime.ports import Answer, Metrics, Read

_ACTION = "channel.publish"


class Host(Protocol):
    """What an intake asks of its node."""

    policy: Policy
    metrics: Metrics
    clock: Callable[[], float]
    timer: Callable[[], float]

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

    def take(self, reads: list[Read]) -> list[Answer]:
        """Carry out what has come, each connection's in its order; give what is to be sent at once in answer."""
        node = self._node
        policy, turn = node.policy, Turn(node.clock(), node.timer())
        taken = cast("list[tuple[Connection, list[bytes]]]", reads)
        unsound = verify_all([(c.verifier, payloads, c) for c, payloads in taken if c.verifier is not None])
        answering: list[Connection] = []
        for connection, bodies in taken:
            try:
                if connection.policy is not policy:
                    connection.adopt_policy()
                wanted = connection.session.receive(bodies, turn)
                if wanted:
                    connection.do(wanted)
            except Exception as fault:  # noqa: BLE001 - the last rung: it ends this connection, and no other
                node.failed(connection, fault)
            if connection.outbox.waiting:
                answering.append(connection)
        for connection, failure in unsound:
            connection.do(connection.session.refuse_signature(failure))
        if turn.ends:
            node.metrics.published(_ACTION, turn)
        return _answers(answering)


def _answers(connections: list[Connection]) -> list[Answer]:
    """Take what the connections have to say, signed where they sign."""
    answers: list[Answer] = []
    signing: list[tuple[Signer, list[bytes]]] = []
    for connection in connections:
        if connection.gone:
            continue
        outbox = connection.outbox
        bodies = outbox.take()
        if outbox.signer is not None:
            signing.append((outbox.signer, bodies))
        answers.append((connection.port, bodies))
    sign_all(signing)
    return answers
