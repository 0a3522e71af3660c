"""The log: one event a line, JSON in production, readable in development, and no secret in either.

Owns the chain that every line passes, ours and those of the standard library's loggers (uvicorn, asyncio, SQLAlchemy, Alembic)
alike, and the levels of those. Refuses to own what is logged and which shapes are secret: see `gateway.core.redaction`.
"""

from __future__ import annotations

import datetime as dt
import io
import logging
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from typing import BinaryIO, Final, cast

import msgspec
import structlog

from gateway.core.events import Event
from gateway.core.redaction import clean_field, clean_text, clean_trace
from gateway.runtime.ports import Log
from gateway.runtime.request_context import REQUEST_ID

LEVELS: Final[Mapping[str, int]] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

# These talk at `info` of what our own events say better, or print statements with their values; they speak up from `warning`,
# and at `debug` where the whole log does. SQLAlchemy's engine never goes below: its statements are other people's data.
_QUIET_LOGGERS = (
    "uvicorn",
    "uvicorn.error",
    "uvicorn.access",
    "uvicorn.asgi",
    "alembic",
    "websockets",
    "httpx",
    "httpcore",
)
_SILENT_LOGGERS = ("sqlalchemy", "aiosqlite", "asyncio", "watchfiles")
_RESERVED = frozenset({"event", "level", "timestamp", "request_id", "exception", "stack"})

EventDict = structlog.typing.EventDict
Render = Callable[[Mapping[str, object]], bytes]


class LineWriter:
    """Writes whole lines, from any thread, never a piece of two.

    Args:
        stream: Where they go; flushed after each.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def write(self, line: bytes) -> None:
        """Write one line; drop it where nobody reads any more, for a log must not end what it tells of."""
        with self._lock:
            try:
                self._stream.write(line)
                self._stream.flush()
            except (OSError, ValueError):  # the pipe is broken, the stream closed
                return

    # What structlog's filtering logger calls at the end of the chain.
    debug = info = warning = error = write


def configure_logging(*, level: str = "info", readable: bool = False, stream: BinaryIO | None = None) -> Log:
    """Route every logger of this process through one chain to one stream.

    Called again it replaces what it set before, so that tests may each have their own.

    Args:
        level: `debug`, `info`, `warning` or `error`: the least that is logged.
        readable: Whether lines are for a person at a terminal; JSON otherwise.
        stream: Where lines go; standard output by default.
    """
    target = stream if stream is not None else _standard_output()
    writer = LineWriter(target)
    render = _readable(colours=target.isatty()) if readable else _json
    threshold = LEVELS[level]
    _route_standard_library(_Handler(writer, render), threshold)
    logger = structlog.wrap_logger(
        writer,
        processors=[_chain(render)],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        context_class=dict,
        cache_logger_on_first_use=True,
    )
    return cast("Log", logger.bind())


def _standard_output() -> BinaryIO:
    """Give the bytes below `sys.stdout`; a test may have put something there that has none."""
    buffer = getattr(sys.stdout, "buffer", None)
    return cast("BinaryIO", buffer) if buffer is not None else io.BytesIO()


def _chain(render: Render) -> Callable[[object, str, EventDict], bytes]:
    """Make the one processor of our own events. One function, because each of a chain costs a call on every line."""

    def process(_: object, method: str, event_dict: EventDict) -> bytes:
        event = event_dict.pop("event")
        return render(_line(event, method, event_dict))

    return process


def _line(event: str, level: str, fields: Mapping[str, object]) -> dict[str, object]:
    """Put together what one line says, cleaned: event, level and time first, a traceback last, and nothing that is not known."""
    line: dict[str, object] = {
        "event": event if isinstance(event, Event) else clean_text(event),
        "level": level,
        "timestamp": dt.datetime.now(dt.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
    }
    request_id = fields.get("request_id") or REQUEST_ID.get()
    if request_id:
        line["request_id"] = clean_text(str(request_id))
    trace = None
    for name, value in fields.items():
        if name == "exc_info":
            trace = _trace(value)
        elif name not in _RESERVED and value is not None and value != "":
            line[clean_text(name)] = clean_field(name, value)
    if trace:
        line["exception"] = clean_trace(trace)
    return line


def _trace(exc_info: object) -> str:
    """Format what `exc_info` stands for: an exception, the triple of one, or true for the one being handled."""
    match exc_info:
        case BaseException():
            error: BaseException | None = exc_info
        case (_, BaseException() as error, _):
            pass
        case _:
            error = sys.exc_info()[1] if exc_info else None
    return "".join(traceback.format_exception(error)).rstrip() if error is not None else ""


def _json(line: Mapping[str, object]) -> bytes:
    return msgspec.json.encode(line) + b"\n"


def _readable(*, colours: bool) -> Render:
    """Make the renderer for people."""
    console = structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=structlog.dev.plain_traceback)

    def render(line: Mapping[str, object]) -> bytes:
        fields = dict(line)
        # A person reads the time of day, and knows which day it is.
        fields["timestamp"] = str(fields["timestamp"])[11:23]
        return (str(console(None, str(fields["level"]), fields)) + "\n").encode("utf-8", "backslashreplace")

    return render


class _Handler(logging.Handler):
    """Brings the records of the standard library's loggers into the chain.

    Args:
        writer: Where lines go.
        render: How they look.
    """

    def __init__(self, writer: LineWriter, render: Render) -> None:
        super().__init__()
        self._writer = writer
        self._render = render

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, one that cannot even be formatted too."""
        try:
            event, level, fields = _read_record(record)
            line = _line(event, level, fields)
        except Exception as error:  # noqa: BLE001 - arguments of strangers: any `__str__` may raise anything
            # The default would print the arguments, secrets and all, to standard error.
            line = _line(Event.LOG_FAILED, "error", {"logger": record.name, "error": type(error).__name__})
        self._writer.write(self._render(line))


def _read_record(record: logging.LogRecord) -> tuple[str, str, dict[str, object]]:
    """Read a foreign record: its text is the event, its logger a field."""
    fields: dict[str, object] = {"logger": record.name}
    if record.exc_info:
        fields["exc_info"] = record.exc_info
    return record.getMessage(), record.levelname.lower() if record.levelno <= logging.ERROR else "error", fields


def _route_standard_library(handler: _Handler, threshold: int) -> None:
    """Give every logger the one handler, and each its level."""
    root = logging.getLogger()
    for old in [each for each in root.handlers if isinstance(each, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(threshold)
    quiet = threshold if threshold == logging.DEBUG else max(threshold, logging.WARNING)
    for name in (*_QUIET_LOGGERS, *_SILENT_LOGGERS):
        logger = logging.getLogger(name)
        for foreign in list(logger.handlers):
            logger.removeHandler(foreign)
        logger.propagate = True
        logger.setLevel(quiet if name in _QUIET_LOGGERS else max(threshold, logging.WARNING))
