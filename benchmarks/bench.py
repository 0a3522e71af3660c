"""Measures the gateway and its peers, each in fresh processes, interleaved, and writes docs/performance.md: `make bench`.

Owns the order of things: who runs when, on which core, and what is done with the outcomes. Refuses to own loads (`workloads`), servers
(`gateway_server`, `peer_servers`), measuring (`generator`) and the report (`book`, `report`, `plots`).
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import platform
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx
import msgspec
from book import Book, Machine, Run, Verdict
from gateway_server import PortcullisGateway
from orders import Load, Order, Outcome
from peer_servers import peers
from process_figures import cpu_us
from report import PageError, insert, number, render, summary
from servers import Contender, ContenderError, pinned
from workloads import GATEWAY, Row, chosen

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "performance.md"
GENERATOR = Path(__file__).with_name("generator.py")
CACHE = Path(sys.prefix) / "bench"
RUNS, SECONDS = 5, 3.0
QUICK_RUNS, QUICK_SECONDS = 1, 1.0
OPEN_FILES = 8_192
"""For 5,000 connections, on either side."""
RUN_S = 10.0
"""What a run takes, until the first ones tell."""
PATIENCE_S = 180.0
REPEATS = 2
"""A run that something else disturbed is made anew so often; what decides is the machine's account, never the figure."""
MET, NOT_MET, UNUSABLE, FAILED, INTERRUPTED = 0, 1, 2, 3, 130
EXAMPLES = """\
examples:
  make bench                                           all of it, five rounds, about half an hour
  make bench RUNS=7                                    seven rounds
  make bench ONLY=signed QUICK=1                       one short round of the signed workloads; the page stays as it is
  .venv/bin/python benchmarks/bench.py --json runs.json          keep every run
  .venv/bin/python benchmarks/bench.py --from runs.json          write the page and the plots anew from them
  .venv/bin/python benchmarks/bench.py --from runs.json --print --check
                                                       touch nothing, and fail where a goal is not met

exit codes:
  0  measured      1  a goal is not met (only with --check)      2  this cannot be measured here, or was asked wrongly
  3  a run of the gateway failed      130  interrupted
"""


class UnusableError(Exception):
    """This machine cannot measure; the message says what it lacks."""


def cores() -> tuple[int, int]:
    """Give the cores of the server and of the generator, once it is clear that the machine can measure.

    Raises:
        UnusableError: It is no Linux, has one core, keeps no account, or allows too few open files.
    """
    if not sys.platform.startswith("linux"):
        raise UnusableError("only Linux tells what a thread took to the microsecond (/proc/PID/task/TID/schedstat)")
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        raise UnusableError("two cores are needed, one for the server and one for the generator")
    try:
        cpu_us(os.getpid())
    except OSError as error:
        raise UnusableError("this kernel keeps no account of threads (CONFIG_SCHED_INFO)") from error
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < OPEN_FILES:
        raise UnusableError(f"5,000 connections need {OPEN_FILES} open files (`ulimit -Hn` says {hard})")
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, hard))
    return usable[0], usable[1]


def machine() -> Machine:
    """Describe the machine, without its name."""
    processor = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    kernel = re.match(r"\d+(?:\.\d+)*", platform.release())
    return Machine(
        processor=processor[1] if processor else platform.machine(),
        cores=os.cpu_count() or 0,
        kernel=kernel[0] if kernel else "of an unknown release",
        python=platform.python_version(),
    )


def measure(contender: Contender, load: Load, seconds: float, server_core: int, generator_core: int) -> Outcome:
    """Make one run: a fresh server, a fresh generator.

    Raises:
        ContenderError: The server did not start, or the load failed.
    """
    with contender.serving(load, server_core) as served:
        order = Order(served.port, served.pid, served.conversation, load, seconds)
        with pinned(generator_core):
            # A session of its own: Ctrl-C is for this process, which ends it.
            made = subprocess.run(
                [sys.executable, str(GENERATOR)],
                input=msgspec.json.encode(order),
                capture_output=True,
                check=False,
                timeout=PATIENCE_S,
                start_new_session=True,
            )
    if made.returncode != 0:
        said = made.stderr.decode(errors="replace").strip().splitlines()
        raise ContenderError(said[-1] if said else f"the generator ended with {made.returncode}")
    return msgspec.json.decode(made.stdout, type=Outcome)


def planned(rows: Sequence[Row], contenders: Sequence[Contender], rounds: int) -> Iterator[tuple[int, Row, Contender]]:
    """Give the runs in their order: in each round every contender once under each load, another one first each time.

    So whatever slows the machine for a while, or speeds it up, meets all of them.
    """
    loads = list({row.load: row for row in reversed(rows)}.values())[::-1]
    for turn in range(rounds):
        for row in loads:
            playing = [contender for contender in contenders if contender.plays(row.load)]
            first = turn % len(playing)
            for contender in playing[first:] + playing[:first]:
                yield turn + 1, row, contender


def say(text: str, end: str = "\n") -> None:
    """Tell the person who waits."""
    print(text, end=end, file=sys.stderr, flush=True)


def run_all(
    plan: Sequence[tuple[int, Row, Contender]], made: list[Run], measured: Callable[[Contender, Load], Outcome]
) -> None:
    """Make the planned runs, one after the other, and say what is going on."""
    began = time.monotonic()
    for done, (turn, row, contender) in enumerate(plan):
        each_s = (time.monotonic() - began) / done if done else RUN_S
        left = dt.timedelta(seconds=round(each_s * (len(plan) - done)))
        say(f"[{done + 1}/{len(plan)}, {left} left] round {turn}, {row.title}: {contender.name} … ", end="")
        run = undisturbed(turn, row, contender, measured)
        made.append(run)
        value = row.figure_of(run.outcome) if run.outcome else None
        say(f"failed: {run.failure}" if value is None else f"{number(value)} {row.unit}")


def undisturbed(turn: int, row: Row, contender: Contender, measured: Callable[[Contender, Load], Outcome]) -> Run:
    """Make one run, and make it anew while something else is going on."""
    for repeats in range(REPEATS + 1):
        try:
            run = Run(turn, contender.name, row.load, measured(contender, row.load), repeats=repeats)
        except (ContenderError, httpx.HTTPError, subprocess.SubprocessError, OSError) as error:
            return Run(turn, contender.name, row.load, failure=str(error), repeats=repeats)
        if not run.disturbed:
            break
        say("disturbed … ", end="")
    return run


def bench(options: argparse.Namespace) -> Book:
    """Measure.

    Raises:
        UnusableError: The machine cannot.
        KeyboardInterrupt: Somebody has had enough; what was measured so far is kept.
    """
    rounds = options.runs or (QUICK_RUNS if options.quick else RUNS)
    seconds = options.seconds or (QUICK_SECONDS if options.quick else SECONDS)
    server_core, generator_core = cores()
    made: list[Run] = []
    with tempfile.TemporaryDirectory() as folder:
        found, absent = peers(CACHE)
        contenders: list[Contender] = [PortcullisGateway(Path(folder)), *found]
        book = Book(
            measured_on=dt.datetime.now(tz=dt.UTC).date().isoformat(),
            machine=machine(),
            rounds=rounds,
            seconds=seconds,
            contenders={contender.name: contender.version for contender in contenders},
            absent=absent,
        )
        for name, why in absent.items():
            say(f"{name} is not measured: {why}")
        plan = list(planned(chosen(options.only), contenders, rounds))
        try:
            run_all(plan, made, lambda who, load: measure(who, load, seconds, server_core, generator_core))
        finally:
            book = msgspec.structs.replace(book, runs=tuple(made))
            if options.json is not None:
                options.json.parent.mkdir(parents=True, exist_ok=True)
                options.json.write_bytes(msgspec.json.format(msgspec.json.encode(book)) + b"\n")
                say(f"every run stands in {options.json}")
    return book


def write(book: Book, page: Path) -> None:
    """Put the report on the page, and its pictures beside it.

    Raises:
        PageError: The page has no place for it.
    """
    from plots import draw  # noqa: PLC0415 - matplotlib comes with `make bench` alone, and a report to read needs none

    page.write_text(insert(page.read_text(), render(book)))
    for path in (page, *draw(book, page.parent / "plots")):
        say(f"written: {path}")


def count(text: str) -> int:
    """Read a number of rounds."""
    number_of = int(text)
    if number_of < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number_of


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="bench.py",
        description="Measure the gateway and whichever of its peers are installed.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs", type=count, metavar="N", help=f"rounds, each with fresh processes ({RUNS})")
    parser.add_argument("--seconds", type=float, metavar="S", help=f"how long a run measures ({SECONDS:g})")
    parser.add_argument("--only", default="", metavar="TEXT", help="only the workloads whose title holds TEXT")
    parser.add_argument("--quick", action="store_true", help="one round of a second a run, for a first impression")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the raw runs there")
    parser.add_argument("--from", dest="kept", type=Path, metavar="FILE", help="measure nothing, report kept runs")
    parser.add_argument(
        "--page", type=Path, metavar="FILE", help="the page to write (docs/performance.md, of a whole bench)"
    )
    parser.add_argument(
        "--print", dest="printed", action="store_true", help="print the report, leave the page as it is"
    )
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is not met")
    options = parser.parse_args(given)
    if not chosen(options.only):
        parser.error(f"no workload's title holds `{options.only}`")
    if options.page is None and not (options.only or options.quick or options.printed):
        options.page = PAGE
    return options


def main(given: Sequence[str] | None = None) -> int:
    options = arguments(given)
    for number_of in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number_of, signal.default_int_handler)  # ends like Ctrl-C: servers first
    try:
        book = msgspec.json.decode(options.kept.read_bytes(), type=Book) if options.kept else bench(options)
        print(render(book))
        if options.page is not None:
            write(book, options.page)
    except (UnusableError, PageError, OSError, msgspec.DecodeError) as error:
        say(f"bench: {error}")
        return UNUSABLE
    except KeyboardInterrupt:
        say("bench: interrupted")
        return INTERRUPTED
    say(summary(book))
    if any(run.failure for run in book.runs if run.contender == GATEWAY):
        return FAILED
    verdicts = [each.verdict for row in book.rows() for each in book.judged(row)]
    return NOT_MET if options.check and Verdict.NOT_MET in verdicts else MET


if __name__ == "__main__":
    sys.exit(main())
