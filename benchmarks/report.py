"""The report in Markdown: tables of figures and of ratios with goals, and their place on a page that people write otherwise.

Owns the words and the tables. Refuses to own arithmetic (`book`) and pictures (`plots`).
"""

from __future__ import annotations

from book import Book, Figure, Judgement, Verdict
from workloads import GATEWAY, ROWS, Row

BEGIN = "<!-- bench: begin; `make bench` writes what stands between these two lines -->"
END = "<!-- bench: end -->"
NOTHING, TIMES = "\N{EN DASH}", "\N{MULTIPLICATION SIGN}"
PLOTS = {
    "fan-out": "Fan-out: processor time of one delivery, and how late it comes",
    "request-reply": "Command and reply: processor time of one",
    "connections": "Connections: memory of an idle one, processor time of a connect",
}


class PageError(Exception):
    """The page cannot take the report; the message says why."""


def number(value: float) -> str:
    """Write a figure with three digits that mean something."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(head: list[str], rows: list[list[str]]) -> str:
    """Write a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def figures(book: Book) -> str:
    """Write the medians and their spread."""
    names = list(book.contenders)
    rows = [
        [row.title, row.unit, *(cell(book.figure(row, name), name) for name in names), busy(book, row)]
        for row in book.rows()
    ]
    return table(["workload", "unit", *names, "the generator's core"], rows)


def busy(book: Book, row: Row) -> str:
    """Write how busy the generator was, from its easiest run to its hardest."""
    shares = [run.outcome.generator_busy for run in book.runs if run.load == row.load and run.outcome]
    return f"{min(shares):.0%} to {max(shares):.0%}" if shares else NOTHING


def cell(figure: Figure | None, name: str) -> str:
    """Write one figure: the median, the spread below it, and a mark where it is in doubt."""
    if figure is None:
        return NOTHING
    median = f"**{number(figure.median)}**" if name == GATEWAY else number(figure.median)
    marks = ("†" if figure.saturated else "") + ("‡" if figure.lost else "")
    return f"{median}{marks}<br>{number(figure.least)} to {number(figure.most)}"


def ratios(book: Book) -> str:
    """Write what the gateway takes of what each peer takes, and what became of the goals."""
    peers = [name for name in book.contenders if name != GATEWAY]
    rows = [[row.title, *(share(book.ratio(row, peer)) for peer in peers), goals(book, row)] for row in book.rows()]
    return table(["workload", *(f"÷ {peer}" for peer in peers), "goals"], rows)


def share(ratio: float | None) -> str:
    """Write a ratio."""
    return NOTHING if ratio is None else f"{ratio:.2f}"


def goals(book: Book, row: Row) -> str:
    """Write the goals of a row and what became of each."""
    return "<br>".join(judgement(each, row) for each in book.judged(row))


def judgement(each: Judgement, row: Row) -> str:
    """Write one goal, with the value that decided."""
    wanted = (
        f"≤ {each.goal.limit:g} {TIMES} {each.goal.peer}" if each.goal.peer else f"≤ {each.goal.limit:g} {row.unit}"
    )
    if each.value is None:
        return f"{wanted}: {each.verdict.value}"
    value = f"{each.value:.3g}" if each.goal.peer else number(each.value)
    verdict = f"**{each.verdict.value}**" if each.verdict is Verdict.NOT_MET else each.verdict.value
    return f"{wanted}: {value}, {verdict}"


def notes(book: Book) -> list[str]:
    """Say what is missing or in doubt."""
    runs = [run for run in book.runs if run.outcome]
    lines = [f"{name} was not measured: {why}." for name, why in book.absent.items()]
    if any(run.saturated for run in runs):
        lines.append(
            "† The generator was the bottleneck in at least one run: the server had time left, the generator none."
        )
    if any(run.outcome.lost for run in runs if run.outcome):
        lines.append("‡ In at least one run messages were still missing 3 s after the last one that came.")
    repeated, disturbed = sum(run.repeats for run in runs), sum(run.disturbed for run in runs)
    if repeated or disturbed:
        lines.append(
            f"The machine was not quiet: something else took over a tenth of a core in {disturbed} of these {len(runs)} runs,"
            f" and in {repeated} more that were made anew for it."
        )
    titles = {row.load: row.title for row in reversed(ROWS)}
    lines += [
        f"{run.contender}, {titles.get(run.load, 'a load of an earlier release')}, round {run.round}: {run.failure}."
        for run in book.runs
        if run.failure
    ]
    return lines


def summary(book: Book) -> str:
    """Say in one line how the goals stand."""
    verdicts = [each.verdict for row in book.rows() for each in book.judged(row)]
    met, judged = verdicts.count(Verdict.MET), len(verdicts) - verdicts.count(Verdict.NOT_JUDGED)
    left = len(verdicts) - judged
    return f"{met} of {judged} goals met" + (f", {left} not judged" if left else "")


def render(book: Book) -> str:
    """Write the whole report."""
    machine = book.machine
    where = (
        f"Measured on {book.measured_on}: {machine.processor}, {machine.cores} cores, Linux {machine.kernel}, Python"
        f" {machine.python}; {book.rounds} round{'s' if book.rounds > 1 else ''}, {book.seconds:g} s a run. {summary(book)}."
    )
    plots = {row.plot: None for row in book.rows()}
    return "\n\n".join(
        [
            where,
            table(["contender", "release"], [[name, version] for name, version in book.contenders.items()]),
            "### Figures\n\nThe median, and below it the lowest and the highest run; last, how busy the load generator was.",
            figures(book),
            "### Ratios and goals\n\nWhat the gateway takes of what the peer takes: below 1 it takes less.",
            ratios(book),
            *notes(book),
            *(f"![{PLOTS[name]}](plots/{name}.svg)" for name in plots),
        ]
    )


def insert(page: str, report: str) -> str:
    """Put the report between the markers of a page; all else stays as it is.

    Raises:
        PageError: The markers are not there, once each and in order.
    """
    before, begun, rest = page.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not begun or not ended or BEGIN in after or END in before + after:
        raise PageError(f"the page must hold `{BEGIN}` and `{END}` once each, in this order")
    return f"{before}{BEGIN}\n\n{report}\n\n{END}{after}"
