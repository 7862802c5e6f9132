"""Past events, read from the database once for all clients that need them at the time.

Events up to `event_seq` of a run never change, and many clients that open a run, or reconnect after
a restart, read the same pages.
"""

import asyncio

import anyio.to_thread
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db import Database
from app.runs.live.fanout import Message, concat
from app.runs.live.sse import encode
from app.runs.models import LogLine, MetricPoint
from app.runs.schemas import LogEvent, MetricsEvent

PAGE = 200
KEPT_BYTES = 16 * 1024**2
READERS = 4
"""Reader threads, separate from those of requests."""

Key = tuple[str, int, int]


class Pages:
    """Caches pages by run and position; belongs to one event loop."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._readers = anyio.CapacityLimiter(READERS)
        self._pages: dict[Key, asyncio.Task[list[Message]]] = {}
        """In order of last use; some are still being read."""
        self._sizes_bytes: dict[Key, int] = {}

    async def after(self, run_id: str, seq: int, last_seq: int) -> tuple[bytes, int]:
        """The next events after `seq`, and the number up to which they are complete."""
        start = seq - seq % PAGE
        key = (run_id, start, min(start + PAGE, last_seq))
        page = self._pages.pop(key, None) or asyncio.create_task(self._read(key))
        self._pages[key] = page
        # Shielded: a client that disconnects must not cancel the read for the others.
        messages = await asyncio.shield(page)
        return concat([message for message in messages if message[0] > seq], key[2])

    async def _read(self, key: Key) -> list[Message]:
        def read() -> list[Message]:
            with self._db.read() as session:
                return read_messages(session, *key)

        try:
            messages = await anyio.to_thread.run_sync(read, limiter=self._readers)
        except BaseException:
            self._pages.pop(key, None)
            raise
        self._sizes_bytes[key] = sum(len(event) for _, event in messages)
        self._forget_old()
        return messages

    def _forget_old(self) -> None:
        kept_bytes = sum(self._sizes_bytes.values())
        for key in [key for key in self._pages if key in self._sizes_bytes]:
            if kept_bytes <= KEPT_BYTES:
                return
            del self._pages[key]
            kept_bytes -= self._sizes_bytes.pop(key)


def read_messages(session: Session, run_id: str, after: int, upto: int) -> list[Message]:
    """Encoded metric and log events with numbers in (after, upto], in order."""
    points = session.execute(
        select(
            MetricPoint.seq,
            MetricPoint.step,
            MetricPoint.attempt,
            MetricPoint.name,
            MetricPoint.value,
        )
        .where(MetricPoint.run_id == run_id, MetricPoint.seq > after, MetricPoint.seq <= upto)
        .order_by(MetricPoint.seq, MetricPoint.name)
    )
    found: dict[int, MetricsEvent] = {}
    for seq, step, attempt, name, value in points:
        found.setdefault(seq, MetricsEvent(step=step, attempt=attempt)).values[name] = value
    messages = [
        (seq, encode("metrics", point.model_dump_json(), seq)) for seq, point in found.items()
    ]
    lines = session.scalars(
        select(LogLine)
        .where(LogLine.run_id == run_id, LogLine.seq > after, LogLine.seq <= upto)
        .order_by(LogLine.seq)
    )
    for line in lines:
        event = LogEvent(time=line.time, level=line.level, message=line.message)
        messages.append((line.seq, encode("log", event.model_dump_json(), line.seq)))
    return sorted(messages)
