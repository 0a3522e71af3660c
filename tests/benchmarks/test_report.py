"""What follows from kept runs: figures, ratios, goals, marks, and the page that they are written on."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import bench
import msgspec
import pytest
from book import Book, Run, Verdict
from orders import FanOut, Outcome
from report import BEGIN, END, PLOTS, PageError, insert, render
from workloads import GATEWAY, NATS, NODE, ROWS, Goal, Row, chosen

HERE = Path(__file__).parent
PAGE = HERE.parent.parent / "docs" / "performance.md"
RUNS = HERE / "runs.json"
BOOK = msgspec.json.decode(RUNS.read_bytes(), type=Book)
FAN_OUT = FanOut(100)


def outcome(cpu_us: float, *, server: float = 0.99, generator: float = 0.6) -> Outcome:
    return Outcome(units=1_000, seconds=1.0, cpu_us=cpu_us, server_busy=server, generator_busy=generator)


def book(**figures: float) -> Book:
    """Make a book of one run for each contender."""
    named = {name.replace("_", " "): value for name, value in figures.items()}
    runs = tuple(Run(1, name, FAN_OUT, outcome(value)) for name, value in named.items())
    return msgspec.structs.replace(BOOK, contenders=dict.fromkeys(named, "1.0"), runs=runs)


def row(*goals: Goal) -> Row:
    return Row("a row", FAN_OUT, "cpu_us", "µs", "fan-out", "a row", goals)


def test_the_report_of_kept_runs_is_this_one() -> None:
    assert render(BOOK) + "\n" == (HERE / "report.md").read_text()


@pytest.mark.parametrize(
    ("goal", "value", "verdict"),
    [
        (Goal(0.75, NATS), 0.75, Verdict.MET),
        (Goal(0.74, NATS), 0.75, Verdict.NOT_MET),
        (Goal(3.0), 3.0, Verdict.MET),
        (Goal(2.9), 3.0, Verdict.NOT_MET),
        (Goal(1.0, NODE), None, Verdict.NOT_JUDGED),
    ],
)
def test_a_goal_is_judged_by_the_runs_of_the_same_book(goal: Goal, value: float | None, verdict: Verdict) -> None:
    [judged] = book(Portcullis=3.0, NATS=4.0).judged(row(goal))

    assert (judged.goal, judged.value, judged.verdict) == (goal, value, verdict)


def test_a_ratio_is_that_of_the_medians() -> None:
    runs = [(GATEWAY, 2.0), (NATS, 9.0), (GATEWAY, 4.0), (NATS, 10.0), (GATEWAY, 30.0), (NATS, 5.0)]
    made = msgspec.structs.replace(BOOK, runs=tuple(Run(1, name, FAN_OUT, outcome(value)) for name, value in runs))
    figure = made.figure(row(), GATEWAY)

    assert figure is not None
    assert (figure.median, figure.least, figure.most, figure.runs) == (4.0, 2.0, 30.0, 3)
    assert made.ratio(row(), NATS) == 4.0 / 9.0


@pytest.mark.parametrize(
    ("server", "generator", "saturated"),
    [(0.7, 0.98, True), (0.99, 0.98, False), (0.7, 0.9, False), (0.7, 0.97, False)],
)
def test_a_run_is_marked_whose_generator_was_busy_and_its_server_not(
    server: float, generator: float, *, saturated: bool
) -> None:
    assert Run(1, GATEWAY, FAN_OUT, outcome(1.0, server=server, generator=generator)).saturated is saturated


def test_the_goals_of_the_release_are_these() -> None:
    goals = {row.title: [(goal.limit, goal.peer) for goal in row.goals] for row in ROWS}

    assert list(goals.values()) == [
        [(0.75, "NATS"), (0.95, "Mosquitto")],
        [(0.75, "NATS"), (0.95, "Node ws")],
        [(0.75, "NATS")],
        [(0.6, "NATS")],
        [(1.1, "Node ws")],
        [(0.55, "Node ws")],
        [(16.0, None)],
        [(400.0, None)],
        [],
        [],
    ]
    assert {row.plot for row in ROWS} == set(PLOTS)


def test_a_report_takes_its_place_and_leaves_the_rest_of_the_page() -> None:
    page = f"# A page\n\nBefore.\n\n{BEGIN}\n\nold\n\n{END}\n\nAfter.\n"

    written = insert(page, "new")

    assert written == f"# A page\n\nBefore.\n\n{BEGIN}\n\nnew\n\n{END}\n\nAfter.\n"
    assert insert(written, "new") == written


@pytest.mark.parametrize(
    "page", ["", f"{BEGIN}\n", f"{END}\n", f"{END}\n{BEGIN}\n", f"{BEGIN}{END}{BEGIN}", f"{BEGIN}{END}{END}"]
)
def test_a_page_without_its_markers_is_refused(page: str) -> None:
    with pytest.raises(PageError):
        insert(page, "new")


def test_the_page_of_the_docs_has_its_markers() -> None:
    assert "new" in insert(PAGE.read_text(), "new")


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="`make bench` installs what draws")
def test_the_same_runs_give_the_same_page_and_pictures(tmp_path: Path) -> None:
    pages = [tmp_path / name / "page.md" for name in ("one", "two")]
    for page in pages:
        page.parent.mkdir()
        page.write_text(f"{BEGIN}\n{END}\n")
        assert bench.main(["--from", str(RUNS), "--page", str(page)]) == 0

    files = [sorted(page.parent.rglob("*.*")) for page in pages]
    assert [path.name for path in files[0]] == ["page.md", "connections.svg", "fan-out.svg", "request-reply.svg"]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]


def test_kept_runs_are_reported_and_checked_without_measuring(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--from", str(RUNS), "--print"]

    assert bench.main(given) == 0
    assert bench.main([*given, "--check"]) == 1
    printed = capsys.readouterr()
    assert printed.out == (HERE / "report.md").read_text() * 2
    assert printed.err == "1 of 5 goals met, 1 not judged\n" * 2


def test_a_file_that_holds_no_runs_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs.json").write_text("{}")

    assert bench.main(["--from", str(tmp_path / "runs.json"), "--print"]) == 2
    assert capsys.readouterr().err.startswith("bench: ")


def test_a_workload_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        bench.main(["--only", "no such thing"])

    assert refused.value.code == 2
    assert "no workload's title holds `no such thing`" in capsys.readouterr().err


def test_workloads_are_chosen_by_a_part_of_their_title() -> None:
    assert [row.figure for row in chosen("SIGNED, AUTHORIZED")] == ["cpu_us", "cpu_us"]
    assert chosen("") == ROWS
