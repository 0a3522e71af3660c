"""The report's pictures: horizontal bars with their spread, one panel for each row, as SVG that is the same for the same runs.

Owns drawing. Refuses to own figures (`book`).
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import matplotlib as mpl
from book import Book
from report import number
from workloads import GATEWAY, Row

OURS, THEIRS, GOAL = "#0b6e4f", "#9aa5b1", "#c1121f"
PANEL_WIDTH, BAR_HEIGHT, PANEL_MARGIN = 6.0, 0.32, 0.9  # inches
OVERFLOW = 4.0
"""A bar so many times as long as the middle one is cut off, or the others could not be told apart."""
LONGEST = 1.4
"""What a panel shows beyond its longest bar: room for a spread."""
STYLE = {
    "font.family": "sans-serif",
    "font.size": 10.0,
    "svg.fonttype": "none",  # text stays text, which can be searched, and the file stays small
    "svg.hashsalt": "portcullis",  # or the names inside would differ with each drawing
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def draw(book: Book, folder: Path) -> list[Path]:
    """Write all pictures; give their paths."""
    mpl.use("svg")
    import matplotlib.pyplot as plt  # noqa: PLC0415 - it chooses how it draws when it is imported

    rows = book.rows()
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with mpl.rc_context(STYLE):
        for name in dict.fromkeys(row.plot for row in rows):
            panels = [row for row in rows if row.plot == name]
            columns = min(len(panels), 2)
            lines = -(-len(panels) // columns)
            height = lines * (BAR_HEIGHT * len(book.contenders) + PANEL_MARGIN)
            figure, axes = plt.subplots(lines, columns, figsize=(PANEL_WIDTH * columns, height), squeeze=False)
            for row, panel in zip(panels, axes.flat, strict=False):
                bars(panel, book, row)
            for panel in list(axes.flat)[len(panels) :]:
                panel.set_axis_off()
            figure.tight_layout()
            path = folder / f"{name}.svg"
            figure.savefig(path, format="svg", facecolor="white", metadata={"Date": None, "Creator": None})
            plt.close(figure)
            written.append(path)
    return written


def bars(panel: Any, book: Book, row: Row) -> None:  # noqa: ANN401 - matplotlib's axes
    """Draw one row: a bar for each contender, the gateway's on top."""
    found = {name: figure for name in book.contenders if (figure := book.figure(row, name))}
    medians = [figure.median for figure in found.values()]
    limit = LONGEST * max(median for median in medians if median <= OVERFLOW * statistics.median(medians))
    for place, (name, figure) in enumerate(found.items()):
        cut = figure.median > limit
        panel.barh(place, min(figure.median, limit), color=OURS if name == GATEWAY else THEIRS, height=0.7)
        if not cut:
            panel.plot([figure.least, figure.most], [place, place], color="black", linewidth=1)
        panel.annotate(
            f"{number(figure.median)} …" if cut else number(figure.median),
            (limit if cut else min(max(figure.most, figure.median), limit), place),
            xytext=(-4 if cut else 4, 0),
            textcoords="offset points",
            va="center",
            ha="right" if cut else "left",
            annotation_clip=False,
        )
    goal = strictest(book, row)
    if goal is not None and goal <= limit:
        panel.axvline(goal, color=GOAL, linestyle="--", linewidth=1)
        panel.annotate("goal", (goal, -0.6), color=GOAL, xytext=(3, 0), textcoords="offset points", va="bottom")
    panel.set_xlim(0, limit)
    panel.set_ylim(len(found) - 0.5, -0.7)
    panel.set_yticks(range(len(found)), list(found))
    panel.set_xlabel(row.unit)
    panel.set_title(row.short, loc="left", pad=14)


def strictest(book: Book, row: Row) -> float | None:
    """Give the lowest goal of a row in its unit."""
    limits = []
    for goal in row.goals:
        peer = book.figure(row, goal.peer) if goal.peer else None
        if peer is not None or goal.peer is None:
            limits.append(goal.limit * (peer.median if peer else 1))
    return min(limits, default=None)
