"""The bench's order of runs, and what is left of a server whatever happens."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench import planned, run_all
from book import Run
from orders import Conversation, Exchange, FanOut, Load, Outcome
from peer_servers import fill
from servers import ContenderError, Served, await_port, free_port, release, running
from soak import MAX_GROWTH, Sample, faults, growth, metric
from workloads import GATEWAY, ROWS


class Contender:
    """A contender that is never started."""

    version = "1.0"

    def __init__(self, name: str, *, answers: bool = True) -> None:
        self.name = name
        self._answers = answers

    def plays(self, load: Load) -> bool:
        return self._answers or not isinstance(load, Exchange)

    @contextlib.contextmanager
    def serving(self, load: Load, core: int | None) -> Iterator[Served]:
        del load, core
        yield Served(0, 0, Conversation(path="/", template=b""))


CONTENDERS = [Contender(GATEWAY), Contender("one"), Contender("two", answers=False)]


def test_each_contender_runs_once_in_each_round_under_each_load_that_it_has() -> None:
    plan = list(planned(ROWS, CONTENDERS, 3))

    for turn in (1, 2, 3):
        for load in {row.load for row in ROWS}:
            who = [contender.name for number, row, contender in plan if (number, row.load) == (turn, load)]
            assert sorted(who) == sorted(each.name for each in CONTENDERS if each.plays(load))
    assert [number for number, _, _ in plan] == sorted(number for number, _, _ in plan)


def test_another_contender_begins_in_each_round() -> None:
    plan = list(planned(ROWS[:1], CONTENDERS, 4))

    order = [contender.name for _, _, contender in plan]
    assert order == [GATEWAY, "one", "two", "one", "two", GATEWAY, "two", GATEWAY, "one", GATEWAY, "one", "two"]


def test_a_run_that_fails_is_kept_as_such_and_the_others_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    good = Outcome(units=1, seconds=1.0, cpu_us=2.5, server_busy=1.0, generator_busy=0.5)

    def measured(contender: object, load: Load) -> Outcome:
        del load
        if contender is CONTENDERS[1]:
            raise ContenderError("did not start: no reason given")
        return good

    made: list[Run] = []
    run_all(list(planned(ROWS[:1], CONTENDERS, 1)), made, measured)

    assert made == [
        Run(1, GATEWAY, FanOut(100), good),
        Run(1, "one", FanOut(100), failure="did not start: no reason given"),
        Run(1, "two", FanOut(100), good),
    ]
    lines = capsys.readouterr().err.splitlines()
    assert [line.rpartition("…")[2] for line in lines] == [
        " 2.50 µs a delivery",
        " failed: did not start: no reason given",
        " 2.50 µs a delivery",
    ]


@pytest.mark.parametrize(
    ("others", "calls", "counts"), [([0.0], 1, 0.0), ([0.4, 0.1], 2, 0.1), ([0.4, 0.5, 0.6], 3, 0.6)]
)
def test_a_disturbed_run_is_made_anew_but_not_for_ever(
    others: list[float], calls: int, counts: float, capsys: pytest.CaptureFixture[str]
) -> None:
    left = iter(others)

    def measured(contender: object, load: Load) -> Outcome:
        del contender, load
        return Outcome(units=1, seconds=1.0, cpu_us=2.5, server_busy=1.0, generator_busy=0.5, others_busy=next(left))

    made: list[Run] = []
    run_all(list(planned(ROWS[:1], CONTENDERS[:1], 1)), made, measured)

    [run] = made
    assert run.outcome is not None
    assert (run.outcome.others_busy, run.repeats, run.disturbed) == (counts, calls - 1, counts > 0.1)
    assert next(left, None) is None
    assert "2.50 µs a delivery" in capsys.readouterr().err


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, ContenderError])
def test_no_process_outlives_its_run(tmp_path: Path, interruption: type[BaseException]) -> None:
    script = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); time.sleep(60)"
    with (
        pytest.raises(interruption),
        running([sys.executable, "-c", script], tmp_path, None, os.environ) as process,
    ):
        raise interruption

    assert process.returncode == -9
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_a_server_that_ends_at_once_is_told_with_its_last_words(tmp_path: Path) -> None:
    script = "print('first'); raise SystemExit('the port is taken')"
    with (
        running([sys.executable, "-c", script], tmp_path, None, os.environ) as process,
        pytest.raises(ContenderError, match=r"^did not start: the port is taken$"),
    ):
        await_port(process, free_port(), tmp_path)


def test_a_process_runs_on_the_core_that_it_is_given(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    core = max(before)
    with running([sys.executable, "-c", "input()"], tmp_path, core, os.environ) as process:
        assert os.sched_getaffinity(process.pid) == {core}
    assert os.sched_getaffinity(0) == before


def test_a_configuration_keeps_the_braces_that_are_its_own() -> None:
    assert fill('websocket { listen: "127.0.0.1:{port}" }', {"port": "9"}) == 'websocket { listen: "127.0.0.1:9" }'


@pytest.mark.parametrize(
    ("said", "number"),
    [("nats-server: v2.15.1", "2.15.1"), ("mosquitto version 2.0.11", "2.0.11"), ("?", "of an unknown release")],
)
def test_a_release_is_found_in_what_a_program_says(said: str, number: str) -> None:
    assert release(said) == number


@pytest.mark.parametrize("script", ["bench.py", "soak.py"])
def test_help_shows_examples_and_exit_codes(script: str) -> None:
    path = Path(sys.modules[planned.__module__].__file__ or "").with_name(script)
    shown = subprocess.run([sys.executable, str(path), "--help"], capture_output=True, text=True, check=True).stdout

    assert "examples:\n  make " in shown
    assert "exit codes:\n  0  " in shown


# ---------------------------------------------------------------------------------------------------------- the soak


def sample(resident_kb: int = 100, *, files: int = 40, connections: int = 0, subscriptions: int = 0) -> Sample:
    return Sample(resident_kb, files, connections, subscriptions)


def test_growth_is_from_the_second_fifth_to_the_last() -> None:
    resident = [1, 1, 100, 102, 500, 500, 500, 500, 110, 112]

    assert growth([sample(each) for each in resident]) == pytest.approx(111 / 101 - 1)


def test_what_is_given_back_is_no_fault() -> None:
    within = int(100_000 * (1 + MAX_GROWTH)) - 1

    assert list(faults([sample(100_000)] * 8 + [sample(within)] * 2, sample(), sample(files=45))) == []


def test_each_thing_that_is_not_given_back_is_told() -> None:
    grown = [sample(100)] * 8 + [sample(110)] * 2
    after = sample(files=46, connections=1, subscriptions=2)

    assert list(faults(grown, sample(), after)) == [
        "memory grew by 10.0% from the second fifth of the time to the last",
        "46 files are open that were 40 before the first client",
        "1 connections are counted without a client",
        "2 subscriptions are counted without a client",
    ]


def test_metrics_are_read_by_their_labels() -> None:
    text = '# TYPE a gauge\na 3.0\na_total{code="1000"} 5.0\na_total{code="other"} 0.0\nab 7.0\n'

    assert metric(text, "a") == {"": 3.0}
    assert metric(text, "a_total") == {'code="1000"': 5.0, 'code="other"': 0.0}
