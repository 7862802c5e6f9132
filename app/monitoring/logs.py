"""Log formats: text for people, JSON lines for machines.

The ids of a request or attempt are bound once, and added to every line logged meanwhile, including
those of libraries.
"""

import json
import logging
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType, TracebackType
from typing import Any, TextIO

from app.settings import LogFormat

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""Attributes of every record; others were given as `extra`."""
# uvicorn repeats its messages in colour.
_IGNORED = _STANDARD | {"color_message"}

LINES_PER_INTERVAL = 60
INTERVAL_S = 60.0

_bound: ContextVar[Mapping[str, Any]] = ContextVar("log_fields", default=MappingProxyType({}))


@contextmanager
def bound(**fields: Any) -> Iterator[None]:
    """Add these fields to every line logged in this block by this thread or task."""
    token = _bound.set({**_bound.get(), **fields})
    try:
        yield
    finally:
        _bound.reset(token)


def configure(log_format: LogFormat, service: str) -> None:
    """Send all logs, including warnings and those of libraries, to stderr in one format."""
    handler = LimitedHandler()
    handler.setFormatter(JsonLines(service) if log_format == "json" else TextLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
    for chatty in ("celery", "httpx", "alembic", "botocore", "aiobotocore"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


class LimitedHandler(logging.StreamHandler[TextIO]):
    """Writes to stderr with a rate limit, so that an attack does not fill the disk.

    Limits warnings, errors and refused requests, by log statement and status. The number of
    suppressed lines is logged in the next minute.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__(stream)
        self._counts: Counter[tuple[str, str, int, int]] = Counter()
        self._suppressed: dict[tuple[str, str, int, int], str] = {}
        """The last suppressed message of each cause."""
        self._since_s = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        """Called by logging, under the handler's lock."""
        if time.monotonic() - self._since_s >= INTERVAL_S:
            self._log_suppressed()
        status = getattr(record, "status", 200)  # also for lines without a request
        if record.levelno >= logging.WARNING or not 0 < status < 400:
            cause = (record.name, record.pathname, record.lineno, status)
            self._counts[cause] += 1
            if self._counts[cause] > LINES_PER_INTERVAL:
                self._suppressed[cause] = record.getMessage()
                return
        super().emit(record)

    def _log_suppressed(self) -> None:
        none = _bound.set({})  # not fields of the current request
        for cause, message in self._suppressed.items():
            name, path, line, status = cause
            more = self._counts[cause] - LINES_PER_INTERVAL
            text = f"{more} more lines like this one were suppressed: {message}"
            summary = logging.LogRecord(name, logging.WARNING, path, line, text, (), None)
            if status != 200:
                summary.status = status
            super().emit(summary)
        _bound.reset(none)
        self._suppressed.clear()
        self._counts.clear()
        self._since_s = time.monotonic()


class TextLines(logging.Formatter):
    """Text: the message, then the fields as `name=value`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the base's name
        """One line, followed by the traceback if any."""
        fields = "".join(f" {name}={_plain(value)}" for name, value in _fields(record).items())
        return super().formatMessage(record) + fields


class JsonLines(logging.Formatter):
    """One JSON object per line, tracebacks included."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """The record as ASCII JSON, so that no text can break the line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    extra = {name: value for name, value in vars(record).items() if name not in _IGNORED}
    return {**_bound.get(), **extra}


def _plain(value: object) -> str:
    text = str(value)
    return text if text.isprintable() and " " not in text and text else json.dumps(text)


def _log_uncaught(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
        return
    logging.getLogger(__name__).critical("uncaught", exc_info=(kind, error, traceback))


def _log_uncaught_in_thread(given: threading.ExceptHookArgs) -> None:
    if given.exc_value is not None and given.exc_type is not SystemExit:
        where = given.thread.name if given.thread else "a thread"
        logging.getLogger(__name__).critical(
            "uncaught in %s",
            where,
            exc_info=(given.exc_type, given.exc_value, given.exc_traceback),
        )
