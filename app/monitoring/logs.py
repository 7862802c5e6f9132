"""How our processes log: text for a person, or JSON lines for a machine; decides nothing else.

Whatever is in hand, a request or an attempt of a run, is bound once, and every line that is
written meanwhile carries its ids, also the lines of libraries.
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
"""What every record has; all else was given as `extra`."""
# uvicorn gives its messages a second time, in colour.
_IGNORED = _STANDARD | {"color_message"}

LINES_PER_INTERVAL = 60
INTERVAL_S = 60.0

_bound: ContextVar[Mapping[str, Any]] = ContextVar("log_fields", default=MappingProxyType({}))


@contextmanager
def bound(**fields: Any) -> Iterator[None]:
    """Every line written in this block, by this thread or task, carries these fields."""
    token = _bound.set({**_bound.get(), **fields})
    try:
        yield
    finally:
        _bound.reset(token)


def configure(log_format: LogFormat, service: str) -> None:
    """Send all logs of this process, libraries' and warnings too, to stderr in one format."""
    handler = LimitedHandler()
    handler.setFormatter(JsonLines(service) if log_format == "json" else TextLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
    for chatty in ("celery", "httpx", "alembic", "botocore", "aiobotocore"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


class LimitedHandler(logging.StreamHandler[TextIO]):
    """Writes to stderr; of one cause only so many lines a minute, so that no attack fills the disk.

    Limited are warnings, errors, and the lines of refused requests, by where they are logged and
    the status. How many were left out is said with the first line of the next minute.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__(stream)
        self._counts: Counter[tuple[str, str, int, int]] = Counter()
        self._left_out: dict[tuple[str, str, int, int], str] = {}
        """The last message of each cause that was not written."""
        self._since_s = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        """Called by logging, under the handler's lock."""
        if time.monotonic() - self._since_s >= INTERVAL_S:
            self._say_what_was_left_out()
        status = getattr(record, "status", 200)  # 200 stands for a line of no request, too
        if record.levelno >= logging.WARNING or not 0 < status < 400:
            cause = (record.name, record.pathname, record.lineno, status)
            self._counts[cause] += 1
            if self._counts[cause] > LINES_PER_INTERVAL:
                self._left_out[cause] = record.getMessage()
                return
        super().emit(record)

    def _say_what_was_left_out(self) -> None:
        none = _bound.set({})  # the request at hand is not the one that was left out
        for cause, message in self._left_out.items():
            name, path, line, status = cause
            more = self._counts[cause] - LINES_PER_INTERVAL
            words = f"{more} more lines like this one were left out: {message}"
            left_out = logging.LogRecord(name, logging.WARNING, path, line, words, (), None)
            if status != 200:
                left_out.status = status
            super().emit(left_out)
        _bound.reset(none)
        self._left_out.clear()
        self._counts.clear()
        self._since_s = time.monotonic()


class TextLines(logging.Formatter):
    """For people: the message, then the fields as `name=value`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the base's name
        """One line; a traceback, if any, follows below it."""
        fields = "".join(f" {name}={_plain(value)}" for name, value in _fields(record).items())
        return super().formatMessage(record) + fields


class JsonLines(logging.Formatter):
    """For machines: one object a line, tracebacks included."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON in ASCII, so that no text from outside can break the line."""
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
