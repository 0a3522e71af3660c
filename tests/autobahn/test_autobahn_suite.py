"""How `make autobahn` judges what it has seen, and the echo that it sees it of."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from echo_server import MAX_BYTES
from suite import MAY_BE_LAX, PARTS, SECTIONS, Results, echoing, judge, lacking, merge, section_of, table
from websockets.asyncio.client import connect

ROOT = Path(__file__).parents[2]


def seen(behaviour: str, close: str = "OK") -> dict[str, object]:
    return {"behavior": behaviour, "behaviorClose": close}


def test_results_that_are_ok_or_informational_are_met() -> None:
    verdict = judge({"one": {"1.1.1": seen("OK"), "7.1.6": seen("INFORMATIONAL", "INFORMATIONAL")}})

    assert verdict.unmet == []
    assert verdict.tally == {"OK": 1, "INFORMATIONAL": 1}


@pytest.mark.parametrize(
    ("behaviour", "close"),
    [("FAILED", "OK"), ("OK", "FAILED"), ("OK", "UNCLEAN"), ("UNIMPLEMENTED", "OK"), ("NON-STRICT", "OK")],
)
def test_anything_else_is_unmet_and_named(behaviour: str, close: str) -> None:
    verdict = judge({"one": {"6.4.1": seen(behaviour, close)}, "two": {"6.4.1": seen("OK")}})

    assert verdict.unmet == [f"6.4.1 (one): {behaviour}, closing {close}"]


def test_non_strict_is_met_where_good_messages_stand_before_a_bad_frame() -> None:
    assert judge({"one": {case: seen("NON-STRICT") for case in MAY_BE_LAX}}).unmet == []


def test_unmet_cases_are_told_in_the_order_of_their_numbers() -> None:
    cases = {case: seen("FAILED") for case in ("10.1.1", "9.1.6", "9.1.10")}

    assert [line.split()[0] for line in judge({"one": cases}).unmet] == ["9.1.6", "9.1.10", "10.1.1"]


def test_a_server_that_missed_a_case_of_another_is_named() -> None:
    every = {"1.1.1": seen("OK"), "1.1.2": seen("OK")}

    assert lacking({"one": every, "two": every}) == []
    assert lacking({"one": every, "two": {"1.1.1": seen("OK")}, "three": {}}) == ["two", "three"]


def test_table_has_a_row_for_each_section_that_was_run_and_a_column_for_each_server() -> None:
    results: Results = {"one": {"1.1.1": seen("OK"), "1.1.2": seen("OK"), "3.2": seen("NON-STRICT")}, "two": {}}
    merge(results, {"two": {"12.1.1": seen("OK")}})

    assert table(results).splitlines() == [
        "| section | one | two |",
        "|---|---|---|",
        "| 1: framing | 2 OK |  |",
        "| 3: reserved bits | 1 NON-STRICT |  |",
        "| 12: permessage-deflate, 18 sizes of 5 payloads |  | 1 OK |",
    ]


def test_page_tells_of_every_section_and_of_every_case_that_may_be_lax() -> None:
    page = (ROOT / "docs" / "autobahn.md").read_text()
    rows = dict(re.findall(r"^\| (\d+: [^|]+) \|(.*)\|$", page, re.MULTILINE))

    assert list(rows) == [f"{number}: {what}" for number, what in SECTIONS.items()]
    counts = [int(count) for row in rows.values() for count in re.findall(r"\d+", row)]
    assert f"That is {sum(counts)} results" in page
    assert not set(re.findall(r"[A-Z-]+", "".join(rows.values()))) - {"OK", "INFORMATIONAL"}
    (lax,) = re.findall(r"let it pass in (.*), and nowhere", page)
    assert set(re.findall(r"[\d.]+\d", lax)) == MAY_BE_LAX


def test_every_section_is_run() -> None:
    assert {section_of(part) for part in PARTS.split()} == set(SECTIONS)


@pytest.mark.parametrize("deflate", [False, True], ids=["plain", "deflate"])
async def test_echo_sends_both_kinds_back_on_both_kinds_of_connections(*, deflate: bool) -> None:
    messages = ["", "short", "x" * 70_000, b"", b"short", b"\xff" * 70_000, "€", b"again"]
    with echoing(deflate=deflate) as address:
        for path in ("/ws", "/ws?msgpack"):
            async with connect(address + path, max_size=None) as client:
                for message in messages:
                    await client.send(message)
                assert [await client.recv() for _ in messages] == messages
                assert bool(client.protocol.extensions) == deflate
                await client.send(["fra", "gments"])
                await client.send([b"fra", b"gments"])
                assert [await client.recv(), await client.recv()] == ["fragments", b"fragments"]


async def test_echo_takes_the_largest_message_of_the_suite() -> None:
    assert MAX_BYTES > 16 * 1024 * 1024
    with echoing(deflate=False) as address:
        async with asyncio.timeout(30), connect(address + "/ws", max_size=None) as client:
            await client.send(bytes(16 * 1024 * 1024))
            assert len(await client.recv()) == 16 * 1024 * 1024
