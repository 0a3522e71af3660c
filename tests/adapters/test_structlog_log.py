"""Every line is one event, whole, in order and without a secret, whoever logged it."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import threading
from collections.abc import Iterator

import pytest

from gateway.adapters.structlog_log import LEVELS, configure_logging
from gateway.core.events import Event
from gateway.runtime.ports import Log
from gateway.runtime.request_context import REQUEST_ID

TOKEN = "eyJhbGciOiJFUzI1NiIsImtpZCI6IjEifQ.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJlLW9mLWl0"


@pytest.fixture
def stream() -> io.BytesIO:
    return io.BytesIO()


@pytest.fixture
def gateway_log(stream: io.BytesIO) -> Log:
    return configure_logging(level="debug", stream=stream)


@pytest.fixture(autouse=True)
def _standard_library_as_it_was() -> Iterator[None]:
    """Give back what configure_logging changes in the process: it is meant to be called once."""
    root = logging.getLogger()
    names = ("uvicorn", "uvicorn.error", "uvicorn.access", "asyncio", "sqlalchemy")
    levels = {name: logging.getLogger(name).level for name in names}
    root_level = root.level
    yield
    root.setLevel(root_level)
    root.handlers = [each for each in root.handlers if not type(each).__module__.startswith("gateway.")]
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def lines(stream: io.BytesIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_json_line_with_its_level_time_and_fields(gateway_log: Log, stream: io.BytesIO) -> None:
    gateway_log.info(Event.CONNECTION_ACCEPTED, session="s1", subject="alice", roles=("member",), signed=True, count=3)

    [line] = lines(stream)
    timestamp = str(line.pop("timestamp"))
    assert timestamp.endswith("Z")
    assert "T" in timestamp
    assert line == {
        "event": "connection.accepted",
        "level": "info",
        "session": "s1",
        "subject": "alice",
        "roles": ["member"],
        "signed": True,
        "count": 3,
    }
    assert stream.getvalue().endswith(b"}\n")


@pytest.mark.parametrize("level", LEVELS)
def test_only_the_chosen_level_and_those_above_are_logged(level: str, stream: io.BytesIO) -> None:
    gateway_log = configure_logging(level=level, stream=stream)

    for each in LEVELS:
        getattr(gateway_log, each)("connection.closed")
        getattr(logging.getLogger("some.library"), each)("closed")

    wanted = list(LEVELS)[list(LEVELS).index(level) :]
    assert [line["level"] for line in lines(stream)] == [each for each in wanted for _ in range(2)]


def test_the_request_id_of_the_running_task_stands_on_every_line(gateway_log: Log, stream: io.BytesIO) -> None:
    async def request(request_id: str) -> None:
        REQUEST_ID.set(request_id)
        await asyncio.sleep(0)
        gateway_log.info(Event.TOKEN_ISSUED)
        logging.getLogger("uvicorn.error").warning("something")

    async def both() -> None:
        await asyncio.gather(request("r1"), request("r2"))

    asyncio.run(both())
    gateway_log.info(Event.TOKEN_ISSUED)

    assert [line.get("request_id") for line in lines(stream)] == ["r1", "r1", "r2", "r2", None]


def test_no_secret_passes_by_any_road(gateway_log: Log, stream: io.BytesIO) -> None:
    uvicorn = logging.getLogger("uvicorn.error")
    gateway_log.info(Event.CONNECTION_REFUSED, detail=f"token={TOKEN}", headers={"authorization": f"Bearer {TOKEN}"})
    gateway_log.info(f"{TOKEN}", token=TOKEN, nested=[{"ticket": TOKEN}], error=ValueError(TOKEN))
    uvicorn.info('%s - "WebSocket %s" [accepted]', "127.0.0.1:5", f"/ws?token={TOKEN}")
    uvicorn.info("headers %s", [(b"authorization", f"Bearer {TOKEN}".encode())])
    logging.getLogger("uvicorn.access").info(
        '%s - "%s %s HTTP/%s" %d', "1.2.3.4:5", "GET", f"/?t=1&ticket={TOKEN}", "1.1", 404
    )
    uvicorn.info(f"already formatted {TOKEN}")
    try:
        int(TOKEN)
    except ValueError as error:
        gateway_log.error(Event.REQUEST_FAILED, exc_info=error)
        uvicorn.exception("failed with %s", TOKEN)

    assert len(lines(stream)) == 8
    assert TOKEN.encode() not in stream.getvalue()
    for part in TOKEN.split(".")[1:]:
        assert part.encode() not in stream.getvalue()


def test_a_record_that_cannot_be_formatted_is_told_without_its_arguments(
    gateway_log: Log, stream: io.BytesIO, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hostile:
        def __str__(self) -> str:
            raise RuntimeError(TOKEN)

    root = logging.getLogger()  # pytest's own handlers raise on such a record
    monkeypatch.setattr(
        root, "handlers", [each for each in root.handlers if type(each).__module__.startswith("gateway.")]
    )
    logging.getLogger("uvicorn.error").warning("%s and %s", TOKEN)  # noqa: PLE1206 - the mistake is the point
    logging.getLogger("uvicorn.error").warning("%s", Hostile())
    gateway_log.info(Event.SERVER_STARTED)

    told = [(line["event"], line.get("logger"), line.get("error")) for line in lines(stream)]
    assert told == [
        ("log.failed", "uvicorn.error", "TypeError"),
        ("log.failed", "uvicorn.error", "RuntimeError"),
        ("server.started", None, None),
    ]
    assert TOKEN.encode() not in stream.getvalue()
    assert capsys.readouterr() == ("", "")


def test_a_traceback_stands_in_one_line_under_exception(gateway_log: Log, stream: io.BytesIO) -> None:
    try:
        _ = 1 / 0
    except ZeroDivisionError as error:
        gateway_log.error(Event.CONNECTION_FAILED, exc_info=True)
        gateway_log.error(Event.CONNECTION_FAILED, exc_info=error)
        asyncio_log = logging.getLogger("asyncio")
        asyncio_log.error("task died", exc_info=(type(error), error, error.__traceback__))
    gateway_log.error(Event.CONNECTION_FAILED, exc_info=True)
    gateway_log.error(Event.CONNECTION_FAILED, exc_info=False)

    traces = [str(line.get("exception", "")) for line in lines(stream)]
    assert [trace.splitlines()[-1:] for trace in traces] == [["ZeroDivisionError: division by zero"]] * 3 + [[], []]
    assert all(trace.startswith("Traceback (most recent call last):\n") for trace in traces[:3])
    assert stream.getvalue().count(b"\n") == 5


def test_what_is_not_known_is_left_out(gateway_log: Log, stream: io.BytesIO) -> None:
    gateway_log.info(Event.COMMAND_DENIED, channel=None, detail="", tenant="", id=0, signed=False)

    [line] = lines(stream)
    assert set(line) == {"event", "level", "timestamp", "id", "signed"}


def test_fields_cannot_pose_as_the_line_itself(gateway_log: Log, stream: io.BytesIO) -> None:
    gateway_log.info("connection.closed", level="forged", timestamp="forged", exception="forged", stack="forged")

    [line] = lines(stream)
    assert line["level"] == "info"
    assert "forged" not in line.values()


def test_text_from_outside_makes_no_second_line_and_moves_no_cursor(stream: io.BytesIO) -> None:
    hostile = 'x\n{"event":"token.issued"}\r\x1b[2J\u2028\ud800'
    configure_logging(stream=stream).info(Event.COMMAND_DENIED, channel=hostile)
    configure_logging(stream=stream, readable=True).info(Event.COMMAND_DENIED, channel=hostile)
    logging.getLogger("uvicorn.error").warning(hostile)

    assert stream.getvalue().count(b"\n") == 3
    assert b"\x1b" not in stream.getvalue()
    assert b"\r" not in stream.getvalue()


def test_long_strings_are_cut(gateway_log: Log, stream: io.BytesIO) -> None:
    gateway_log.info(Event.COMMAND_DENIED, channel="x" * 1_000_000)

    assert len(stream.getvalue()) < 3_000


def test_values_of_any_kind_make_valid_json(gateway_log: Log, stream: io.BytesIO) -> None:
    gateway_log.info(Event.SERVER_STARTED, big=10**400, nan=float("nan"), data=b"\xff", thing=object(), keys={1: {2}})

    [line] = lines(stream)
    assert line["big"] == "[large integer]"
    assert line["nan"] is None
    assert line["data"] == "[1 bytes]"
    assert str(line["thing"]).startswith("<object object")
    assert line["keys"] == {"1": [2]}


def test_chatty_libraries_are_heard_from_warning_on_and_statements_never(stream: io.BytesIO) -> None:
    configure_logging(level="info", stream=stream)
    logging.getLogger("uvicorn.error").info("connection open")
    logging.getLogger("uvicorn.error").warning("trouble")
    configure_logging(level="debug", stream=stream)
    logging.getLogger("uvicorn.error").info("connection open")
    logging.getLogger("sqlalchemy.engine").info("INSERT INTO users VALUES ('alice')")

    assert [line["event"] for line in lines(stream)] == ["trouble", "connection open"]


def test_handlers_that_a_library_brought_along_are_taken_away(stream: io.BytesIO) -> None:
    own = io.StringIO()
    handler = logging.StreamHandler(own)
    logging.getLogger("uvicorn").addHandler(handler)
    logging.getLogger("uvicorn").propagate = False

    configure_logging(level="debug", stream=stream)
    logging.getLogger("uvicorn").info("started")

    assert own.getvalue() == ""
    assert [line["event"] for line in lines(stream)] == ["started"]


def test_configuring_again_replaces_the_first_stream(stream: io.BytesIO) -> None:
    first = io.BytesIO()
    configure_logging(stream=first)
    configure_logging(stream=stream)
    logging.getLogger("x").warning("once")

    assert first.getvalue() == b""
    assert len(lines(stream)) == 1


def test_development_reads_like_a_sentence_in_colours_only_at_a_terminal(stream: io.BytesIO) -> None:
    class Terminal(io.BytesIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    configure_logging(readable=True, stream=stream).info(Event.CONNECTION_ACCEPTED, subject="älice")
    configure_logging(readable=True, stream=terminal).error(Event.REQUEST_FAILED, exc_info=ValueError("boom"))

    text = stream.getvalue().decode()
    assert "connection.accepted" in text
    assert "subject=älice" in text
    assert "\x1b[" not in text
    assert "\x1b[" in terminal.getvalue().decode()
    assert "ValueError: boom" in terminal.getvalue().decode()


def test_a_reader_that_went_away_ends_nothing(stream: io.BytesIO) -> None:
    gateway_log = configure_logging(stream=stream)
    stream.close()

    gateway_log.error(Event.SERVER_STOPPED)
    logging.getLogger("x").error("nobody reads this")


def test_lines_of_many_threads_stay_whole(stream: io.BytesIO) -> None:
    gateway_log = configure_logging(stream=stream)

    def write(number: int) -> None:
        for _ in range(200):
            gateway_log.info(Event.TOKEN_ISSUED, subject=f"user-{number}", note="x" * 500)
            logging.getLogger("lib").info("line of %d", number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(lines(stream)) == 4 * 200 * 2


def test_standard_output_is_the_default(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    configure_logging().info(Event.SERVER_STARTED)

    assert json.loads(capfdbinary.readouterr().out)["event"] == "server.started"


def test_an_output_without_bytes_below_it_is_no_reason_to_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", io.StringIO())

    configure_logging().info(Event.SERVER_STARTED)
