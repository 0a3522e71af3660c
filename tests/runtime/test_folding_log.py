"""A flood of denials is told in ten lines and a count; everything else passes untouched."""

from __future__ import annotations

import asyncio

import pytest

from gateway.core.events import Event
from gateway.runtime.folding_log import FOLDED_EVENTS, FoldingLog
from gateway.runtime.ports import Log

Line = tuple[str, str, dict[str, object]]


class Lines:
    """A log that keeps its lines, and tells when the next one has come."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.came = asyncio.Event()

    def _keep(self, level: str, event: str, fields: dict[str, object]) -> None:
        self.lines.append((level, event, fields))
        self.came.set()

    def debug(self, event: str, **fields: object) -> None:
        self._keep("debug", event, fields)

    def info(self, event: str, **fields: object) -> None:
        self._keep("info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        self._keep("warning", event, fields)

    def error(self, event: str, **fields: object) -> None:
        self._keep("error", event, fields)


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
async def test_every_level_passes_its_event_and_fields(level: str) -> None:
    inner = Lines()
    log: Log = FoldingLog(inner, lambda: 0.0)

    getattr(log, level)(Event.TOKEN_ISSUED, subject="alice")
    getattr(log, level)(Event.COMMAND_DENIED, id=1)

    assert inner.lines == [(level, "token.issued", {"subject": "alice"}), (level, "command.denied", {"id": 1})]


@pytest.mark.parametrize("event", sorted(FOLDED_EVENTS))
@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
async def test_the_eleventh_in_a_second_is_only_counted(event: Event, level: str) -> None:
    now = [100.0]
    inner = Lines()
    log = FoldingLog(inner, lambda: now[0])

    for number in range(15):
        getattr(log, level)(event, id=number)
    assert [fields["id"] for _, _, fields in inner.lines] == list(range(10))

    now[0] = 101.0
    getattr(log, level)(event, id=15)
    assert inner.lines[10:] == [
        ("warning", "events.folded", {"folded": event.value, "count": 5}),
        (level, event.value, {"id": 15}),
    ]


async def test_events_that_no_peer_can_flood_are_never_folded() -> None:
    inner = Lines()
    log = FoldingLog(inner, lambda: 0.0)

    for _ in range(50):
        log.info(Event.CONNECTION_ACCEPTED)

    assert len(inner.lines) == 50


async def test_counts_are_logged_when_the_second_is_over_and_when_the_server_stops() -> None:
    now = [0.0]
    inner = Lines()
    log = FoldingLog(inner, lambda: now[0])
    for _ in range(12):
        log.info(Event.COMMAND_DENIED)
    now[0] = 5.0
    inner.came.clear()

    task = asyncio.create_task(log.run())
    await asyncio.wait_for(inner.came.wait(), 30)
    assert inner.lines[-1] == ("warning", "events.folded", {"folded": "command.denied", "count": 2})

    for _ in range(13):
        log.info(Event.COMMAND_DENIED)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert inner.lines[-1] == ("warning", "events.folded", {"folded": "command.denied", "count": 3})
