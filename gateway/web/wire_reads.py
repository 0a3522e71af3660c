"""What has been read in one turn of the loop, from all open WebSockets, taken together at its end.

Owns when it is taken, and that a fault of one is nobody else's. Refuses to own what messages mean, and what becomes of octets that are no
whole messages (`open_wire`).
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from gateway.runtime.ports import Intake, Read, Receiver, Traffic, Transport
from gateway.web.wire_parser import TURN_BYTES, TURN_MESSAGES, Taker

_LOGGER = logging.getLogger("uvicorn.error")


class Wire(Transport, Protocol):
    """An open WebSocket, as its reads are taken."""

    receiver: Receiver | None
    unread: bytes
    """What has come and is not taken yet."""
    plain: bool
    """Whether it begins a message, with nothing before it, and somebody takes it."""
    holds: bool
    """Whether the socket is not read."""

    def take_rest(self, data: bytes, *, more: bool) -> None:
        """Take what is no whole messages, or what comes behind a pause, or too late.

        Args:
            data: The octets.
            more: Whether as much has been taken in this turn as may be.
        """
        ...


class Reads:
    """What has been read in this turn of the loop from the wires of one encoding, taken all together at its end.

    Args:
        take: Takes whole messages from octets.
        traffic: Where octets are counted.
    """

    __slots__ = ("_take", "_traffic", "wires")

    def __init__(self, take: Taker, traffic: Traffic) -> None:
        self._take = take
        self._traffic = traffic
        self.wires: list[Wire] = []
        """Those that have read something; whoever adds the first one sees to it that `run` is called."""

    def add(self, wire: Wire) -> None:
        """Have what a wire has read taken at the end of the turn."""
        if not self.wires:
            asyncio.get_running_loop().call_soon(self.run)
        self.wires.append(wire)

    def run(self) -> None:
        """Take what has been read: first what is whole messages, of all wires together, then the rest of each."""
        wires, self.wires = self.wires, []
        take, octets = self._take, 0
        intake: Intake | None = None
        reads: list[Read] = []
        rests: list[tuple[Wire, bytes, bool]] = []
        for wire in wires:
            data, wire.unread = wire.unread, b""
            octets += len(data)
            receiver = wire.receiver
            if receiver is None or not wire.plain:
                rests.append((wire, data, False))
                continue
            payloads: list[bytes] = []
            at = take(data, payloads)
            if payloads:
                intake = receiver.intake
                reads.append((receiver, payloads))
            if at < len(data) or wire.holds:
                rests.append((wire, data[at:], len(payloads) == TURN_MESSAGES or at >= TURN_BYTES))
        self._traffic.received += octets
        if intake is not None:
            for transport, answers in intake.take(reads):
                try:
                    transport.send(answers)
                except Exception as fault:  # noqa: BLE001 - the last rung, as below
                    _give_up(transport, fault)
        for wire, rest, more in rests:
            try:
                wire.take_rest(rest, more=more)
            except Exception as fault:  # noqa: BLE001 - the last rung: a fault ends this wire, and the others have their turn
                _give_up(wire, fault)


def _give_up(wire: Transport, fault: Exception) -> None:
    _LOGGER.error("Exception in a WebSocket\n", exc_info=fault)
    wire.abort()
