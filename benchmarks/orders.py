"""What the load generator is told, and what it answers: one JSON object each way, so that it can be a process of its own.

Owns these values alone. Refuses to own who is measured (`contenders`), what is worth measuring (`workloads`) and how (`generator`).
"""

from __future__ import annotations

import msgspec

TEXT, BINARY = 1, 2
"""Opcodes of data frames, RFC 6455 section 5.2."""


class Send(msgspec.Struct, frozen=True, tag="send"):
    """A message that a client sends when it arrives."""

    payload: bytes


class Await(msgspec.Struct, frozen=True, tag="await"):
    """A message that a client waits for when it arrives, told by what stands in it."""

    marker: bytes


class Signing(msgspec.Struct, frozen=True):
    """What the frames of a connection are signed with, beside the server's nonce."""

    key: bytes
    nonce: bytes


class Conversation(msgspec.Struct, frozen=True):
    """How clients talk to one contender, in its own protocol over WebSocket frames.

    Args:
        path: The target of the upgrade request.
        headers: Its headers beyond those of RFC 6455.
        arrive: What a client does before it is ready; subscribers, in a fan-out.
        arrive_to_publish: The same of the publisher.
        template: A publication or a request; `{N}` in it becomes a number that the connection has not used yet.
        opcode: The opcode of data frames in both directions.
        unit_bytes: The size of one delivered message where a frame may hold several; 0 where each frame is one.
        reply: What stands in each reply, and in no refusal.
        signing: Where frames are signed.
    """

    path: str
    template: bytes
    headers: tuple[tuple[str, str], ...] = ()
    arrive: tuple[Send | Await, ...] = ()
    arrive_to_publish: tuple[Send | Await, ...] = ()
    opcode: int = TEXT
    unit_bytes: int = 0
    reply: bytes = b""
    signing: Signing | None = None


class FanOut(msgspec.Struct, frozen=True, tag="fan-out"):
    """One publisher, many subscribers.

    Args:
        subscribers: How many.
        outstanding: Publications that are not yet delivered to all.
        rate_per_s: Publications at a pace of their own instead, with the latency of each delivery.
        newcomers: Others that connect all at once meanwhile; then it is measured for as long as they need.
    """

    subscribers: int
    outstanding: int = 1
    rate_per_s: int = 0
    newcomers: int = 0


class Exchange(msgspec.Struct, frozen=True, tag="exchange"):
    """Requests and their replies, so many in flight on each of so many connections."""

    connections: int
    in_flight: int


class Connect(msgspec.Struct, frozen=True, tag="connect"):
    """So many connections, opened so many at a time, then left alone for `hold_s`."""

    connections: int
    at_once: int = 64
    hold_s: float = 2.0


Load = FanOut | Exchange | Connect


class Order(msgspec.Struct, frozen=True):
    """One run: against the process `pid` on the loopback port `port`, measured for `seconds` after a warm-up."""

    port: int
    pid: int
    conversation: Conversation
    load: Load
    seconds: float
    warm_up_s: float = 0.5


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one run gave.

    Args:
        units: Deliveries, replies or connections.
        seconds: From the first to the last of them.
        cpu_us: Of all threads of the server, for each.
        server_busy: The share of one core that the server took.
        generator_busy: The same of the generator.
        others_busy: The same of everything else on the machine, and of other machines on its hardware as far as they are told of.
        lost: Units that should have come and did not.
        p99_ms: Latency of delivery that 99 of 100 stay below, where the pace was given.
        idle_kb: Resident memory that each connection added (1,024 bytes).
    """

    units: int
    seconds: float
    cpu_us: float
    server_busy: float
    generator_busy: float
    others_busy: float = 0.0
    lost: int = 0
    p99_ms: float | None = None
    idle_kb: float | None = None
