"""What is measured, and what the release promises of it: ten rows, each with the goals that are judged against peers of the same run.

Owns loads and goals. Refuses to own results: a goal is a factor, and whether it is met is worked out from the runs.
"""

from __future__ import annotations

from dataclasses import dataclass

from orders import Connect, Exchange, FanOut, Load, Outcome

GATEWAY, NATS, MOSQUITTO, NODE, SOCKETIO, FASTAPI = (
    "Portcullis",
    "NATS",
    "Mosquitto",
    "Node ws",
    "python-socketio",
    "plain FastAPI",
)
PAYLOAD = b"x" * 128


@dataclass(frozen=True, slots=True)
class Goal:
    """At most `limit` times what `peer` takes; without a peer, at most `limit` itself, in the row's unit."""

    limit: float
    peer: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the report.

    Args:
        title: What the reader sees, and what `--only` looks in.
        load: The run that it is read from; rows of one load share their runs.
        figure: The member of the outcome.
        unit: Of the figure.
        goals: What the release promises.
        plot: The picture that it is a part of.
        short: Its title there.
    """

    title: str
    load: Load
    figure: str
    unit: str
    plot: str
    short: str
    goals: tuple[Goal, ...] = ()

    def figure_of(self, outcome: Outcome) -> float | None:
        """Read the figure."""
        found: float | None = getattr(outcome, self.figure)
        return found


ARRIVALS = Connect(5_000)

ROWS = (
    Row(
        "fan-out to 100, one at a time",
        FanOut(100),
        "cpu_us",
        "µs a delivery",
        "fan-out",
        "to 100, one at a time",
        (Goal(0.75, NATS), Goal(0.95, MOSQUITTO)),
    ),
    Row(
        "fan-out to 1,000, one at a time",
        FanOut(1_000),
        "cpu_us",
        "µs a delivery",
        "fan-out",
        "to 1,000, one at a time",
        (Goal(0.75, NATS), Goal(0.95, NODE)),
    ),
    Row(
        "fan-out to 1,000, 32 outstanding",
        FanOut(1_000, outstanding=32),
        "cpu_us",
        "µs a delivery",
        "fan-out",
        "to 1,000, 32 outstanding",
        (Goal(0.75, NATS),),
    ),
    Row(
        "1,000 subscribers, 100 messages a second: latency that 99 of 100 deliveries stay below",
        FanOut(1_000, rate_per_s=100),
        "p99_ms",
        "ms",
        "fan-out",
        "to 1,000, 100 a second: p99 of latency",
        (Goal(0.6, NATS),),
    ),
    Row(
        "signed, authorized command and reply, 1 in flight on each of 100 connections",
        Exchange(100, 1),
        "cpu_us",
        "µs a reply",
        "request-reply",
        "command and reply, 1 in flight",
        (Goal(1.1, NODE),),
    ),
    Row(
        "signed, authorized command and reply, 16 in flight on each of 100 connections",
        Exchange(100, 16),
        "cpu_us",
        "µs a reply",
        "request-reply",
        "command and reply, 16 in flight",
        (Goal(0.55, NODE),),
    ),
    Row(
        "memory of an idle connection (5,000 of them)",
        ARRIVALS,
        "idle_kb",
        "KB",
        "connections",
        "memory of an idle connection",
        (Goal(16.0),),
    ),
    Row(
        "an authenticated connect (ES256 token), 64 at a time",
        ARRIVALS,
        "cpu_us",
        "µs a connect",
        "connections",
        "an authenticated connect",
        (Goal(400.0),),
    ),
    Row(
        "10 subscribers, 200 messages a second: latency that 99 of 100 deliveries stay below",
        FanOut(10, rate_per_s=200),
        "p99_ms",
        "ms",
        "connections",
        "p99 of latency while nobody comes",
    ),
    Row(
        "10 subscribers, 200 messages a second, while 5,000 clients connect at once: latency that 99 of 100 deliveries stay below",
        FanOut(10, rate_per_s=200, newcomers=5_000),
        "p99_ms",
        "ms",
        "connections",
        "p99 while 5,000 connect at once",
    ),
)


def chosen(only: str) -> tuple[Row, ...]:
    """Give the rows whose title holds a text, whatever its case; all of them for none."""
    return tuple(row for row in ROWS if only.lower() in row.title.lower())
