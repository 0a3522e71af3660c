"""How a node goes away: its connections are sent elsewhere one after the other, each with its own time to come back.

Owns the drain. Refuses to own signals and listening sockets (the server's).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.core.errors import Closes
from gateway.core.events import Event
from gateway.core.session_events import DrainStarted
from gateway.runtime.connection import LINGER_S, Connection
from gateway.runtime.node import Node
from gateway.runtime.ports import Log

STEP_S = 0.05
"""How finely the closes are spread."""

BUSY_S = 2.0
"""How long the close of a connection waits for its commands in flight."""

MIN_RECONNECT_S = 0.5
"""The earliest that a client is asked back: by then this node takes no new connections any more."""


class Lifecycle:
    """Drains a node.

    Args:
        node: The node.
        drain_s: Seconds over which its connections are closed; 0 closes all at once.
        random: Gives numbers from 0 up to 1.
        log: Tells.
    """

    def __init__(self, node: Node, drain_s: float, random: Callable[[], float], log: Log) -> None:
        self._node = node
        self._drain_s = drain_s
        self._random = random
        self._log = log

    async def drain(self) -> None:
        """Refuse new connections, close the open ones spread over the drain time; return when the last has gone."""
        node = self._node
        node.draining = True
        connections = node.connections()
        self._log.info(Event.SERVER_DRAINING, connections=len(connections), drain_s=self._drain_s)
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        told: list[tuple[Connection, float]] = []
        for turn, connection in enumerate(connections):
            turn_at = started_at + self._drain_s * turn / len(connections)
            while loop.time() < turn_at:
                told = self._close_told(told, loop.time())
                await asyncio.sleep(STEP_S)
            connection.tell(DrainStarted(self._reconnect_after_s()))
            told.append((connection, loop.time()))
        while told:
            await asyncio.sleep(STEP_S)
            told = self._close_told(told, loop.time())
        try:
            async with asyncio.timeout(LINGER_S + 1.0):
                await node.wait_empty()
        except TimeoutError:
            self._log.warning(Event.SERVER_DRAINING, connections=len(node.connections()), detail="gone without a close")

    def _close_told(self, told: list[tuple[Connection, float]], now: float) -> list[tuple[Connection, float]]:
        """Close those that have been told and wait for no reply; give those that are still busy."""
        busy = []
        for connection, told_at in told:
            if connection.idle or now - told_at >= BUSY_S:
                connection.end(Closes.DRAINING)
            else:
                busy.append((connection, told_at))
        return busy

    def _reconnect_after_s(self) -> float:
        return round(MIN_RECONNECT_S + self._random() * max(MIN_RECONNECT_S, self._drain_s), 3)
