"""The raw runs, kept as JSON, and what follows from them: medians, spreads, ratios, and which goals are met.

Owns arithmetic on runs. Refuses to own how it is shown (`report`, `plots`). Medians are the standard library's; a ratio is that of two
medians of one book, because between machines only ratios travel.
"""

from __future__ import annotations

import enum
import statistics
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
from orders import Load, Outcome
from workloads import GATEWAY, ROWS, Goal, Row

SATURATED = 0.97
SERVED_OUT = 0.95
QUIET = 0.1
"""What kernel threads and the like take of a core; more is somebody else's work, and slows both sides."""


class Machine(msgspec.Struct, frozen=True):
    """Where it was measured."""

    processor: str
    cores: int
    kernel: str
    python: str


class Run(msgspec.Struct, frozen=True, omit_defaults=True):
    """One fresh server under one load; `repeats` tells how often it was disturbed and made anew before this one counted."""

    round: int
    contender: str
    load: Load
    outcome: Outcome | None = None
    failure: str = ""
    repeats: int = 0

    @property
    def saturated(self) -> bool:
        """Whether the generator was the bottleneck: busy throughout, while the server was not."""
        outcome = self.outcome
        return outcome is not None and outcome.generator_busy > SATURATED and outcome.server_busy < SERVED_OUT

    @property
    def disturbed(self) -> bool:
        """Whether something else ran on the machine meanwhile."""
        return self.outcome is not None and self.outcome.others_busy > QUIET


class Book(msgspec.Struct, frozen=True):
    """All runs of one bench.

    Args:
        measured_on: The day, ISO 8601.
        machine: Where.
        rounds: How often each contender was to run under each load.
        seconds: How long each run measured.
        contenders: Who was there, with versions, in the order of the report.
        absent: Who was not, and why.
        runs: In the order in which they were made.
    """

    measured_on: str
    machine: Machine
    rounds: int
    seconds: float
    contenders: dict[str, str]
    absent: dict[str, str]
    runs: tuple[Run, ...] = ()

    def of(self, row: Row, contender: str) -> list[Run]:
        """Give the runs that a figure is read from."""
        return [run for run in self.runs if run.load == row.load and run.contender == contender]

    def figure(self, row: Row, contender: str) -> Figure | None:
        """Give the figure of a contender; None where it has no such load, or no run of it came to an end."""
        runs = self.of(row, contender)
        values = [value for run in runs if run.outcome and (value := row.figure_of(run.outcome)) is not None]
        if not values:
            return None
        return Figure(
            statistics.median(values),
            min(values),
            max(values),
            len(values),
            saturated=any(run.saturated for run in runs),
            lost=any(run.outcome.lost for run in runs if run.outcome),
        )

    def ratio(self, row: Row, peer: str) -> float | None:
        """Give what the gateway takes of what a peer takes."""
        ours, theirs = self.figure(row, GATEWAY), self.figure(row, peer)
        return ours.median / theirs.median if ours and theirs else None

    def rows(self) -> list[Row]:
        """Give the rows that anything was measured for."""
        measured = {run.load for run in self.runs}
        return [row for row in ROWS if row.load in measured]

    def judged(self, row: Row) -> Iterator[Judgement]:
        """Judge the goals of a row."""
        ours = self.figure(row, GATEWAY)
        for goal in row.goals:
            value = self.ratio(row, goal.peer) if goal.peer else ours and ours.median
            if value is None:
                yield Judgement(goal, None, Verdict.NOT_JUDGED)
            else:
                yield Judgement(goal, value, Verdict.MET if value <= goal.limit else Verdict.NOT_MET)


@dataclass(frozen=True, slots=True)
class Figure:
    """A median with its spread, over so many runs, and what casts doubt on it."""

    median: float
    least: float
    most: float
    runs: int
    saturated: bool = False
    lost: bool = False


class Verdict(enum.Enum):
    """What became of a goal."""

    MET = "met"
    NOT_MET = "not met"
    NOT_JUDGED = "not judged"


@dataclass(frozen=True, slots=True)
class Judgement:
    """A goal, what was measured (a ratio, or a figure where the goal names no peer), and the verdict."""

    goal: Goal
    value: float | None
    verdict: Verdict
