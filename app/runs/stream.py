"""Tails metric and log rows over SSE; writes nothing.

One poller serves all clients of this process. It looks at the streamed runs twice a second and
keeps each run's newest events, encoded once, in a bounded window. A client holds no queue: it reads
from the window at its own pace and, when it is further behind than the window reaches, from the
database in pages. So a slow reader costs nothing but its connection.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field

import anyio.to_thread
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from sse_starlette import EventSourceResponse

from app.db import Database
from app.errors import Unavailable
from app.runs.models import LogLine, MetricPoint, Run
from app.runs.present import run_detail
from app.runs.schemas import EndEvent, LogEvent, MetricsEvent
from app.runs.states import FINAL, RunState
from app.runs.transitions import RunNotFound

logger = logging.getLogger(__name__)

POLL_S = 0.5
HEARTBEAT_S = 15
SEND_TIMEOUT_S = 120.0
"""A client that takes nothing for this long is let go; it reconnects where it stopped."""
PAGE = 500
WINDOW = 1_000
"""Newest events of a run that are kept in memory, for all its clients together."""
MAX_CLIENTS = 10_000

Message = tuple[int, bytes]
"""Sequence number and encoded event."""


def encode(event: str, data: str, seq: int | None = None) -> bytes:
    """One server-sent event; `data` is JSON without line breaks."""
    head = f"id: {seq}\n" if seq is not None else ""
    return f"{head}event: {event}\ndata: {data}\n\n".encode()


@dataclass
class Channel:
    """What all clients of one run share."""

    clients: int = 0
    version: int = -1
    state: RunState | None = None
    deleted: bool = False
    detail: bytes = b""
    """The `run` event as of `version`."""
    last_seq: int = -1
    """Everything up to here is in the database; -1 before the first look."""
    window: deque[Message] = field(default_factory=lambda: deque(maxlen=WINDOW))
    window_start: int = 0
    """The window holds every event after this number, up to `last_seq`."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def announce(self) -> None:
        """Wake all clients; each then waits for the next change."""
        self.changed.set()
        self.changed = asyncio.Event()

    @property
    def ended(self) -> bool:
        return self.deleted or self.state in FINAL


@dataclass(frozen=True)
class Look:
    """What one look at the database found for one run."""

    version: int
    state: RunState
    last_seq: int
    detail: bytes | None
    """None if the version is the known one."""
    messages: list[Message]
    window_start: int


class StreamHub:
    """The poller of one API process and the channels it feeds."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._channels: dict[str, Channel] = {}
        self._task: asyncio.Task[None] | None = None
        self._wanted = asyncio.Event()
        self.clients = 0

    async def start(self) -> None:
        """Begin to poll; call it once, in the event loop that serves the clients."""
        self._wanted = asyncio.Event()
        self._task = asyncio.create_task(self._poll(), name="stream-poller")

    async def stop(self) -> None:
        """Stop polling; open streams end by themselves."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def require_run(self, run_id: str) -> None:
        """Raise NotFound unless the run exists; holds no session afterwards."""

        def check() -> None:
            with self._db.read() as session:
                if session.get(Run, run_id) is None:
                    raise RunNotFound(run_id)

        await anyio.to_thread.run_sync(check)

    def response(self, run_id: str, after_seq: int) -> EventSourceResponse:
        """The stream of a run that is known to exist, after the event that the client has."""
        if self.clients >= MAX_CLIENTS:
            raise Unavailable("Too many pages are watching runs at this moment.")
        return EventSourceResponse(
            self._events(run_id, after_seq),
            ping=HEARTBEAT_S,
            sep="\n",
            send_timeout=SEND_TIMEOUT_S,
        )

    async def _events(self, run_id: str, after_seq: int) -> AsyncGenerator[bytes, None]:
        channel = self._channels.setdefault(run_id, Channel())
        channel.clients += 1
        self.clients += 1
        self._wanted.set()
        try:
            async with aclosing(self._follow(run_id, channel, after_seq)) as events:
                async for event in events:
                    yield event
        except SQLAlchemyError as error:
            # The client reconnects with Last-Event-ID and loses nothing.
            logger.warning("stream of run %s broken off: %s", run_id, error)
        finally:
            self.clients -= 1
            channel.clients -= 1
            if channel.clients == 0:
                self._channels.pop(run_id, None)

    async def _follow(self, run_id: str, channel: Channel, seq: int) -> AsyncGenerator[bytes, None]:
        shown_version = -1
        while True:
            # Taken before looking, so that a change in between is not slept through.
            changed = channel.changed
            if channel.last_seq >= 0 or channel.deleted:
                if channel.version != shown_version and not channel.ended:
                    shown_version = channel.version
                    yield channel.detail
                while seq < channel.last_seq and not channel.deleted:
                    messages, seq = await self._after(run_id, channel, seq)
                    for chunk in _chunks(messages):
                        yield chunk
                if channel.ended:
                    if not channel.deleted:
                        yield channel.detail
                    state = None if channel.deleted else channel.state
                    yield encode("end", EndEvent(state=state).model_dump_json())
                    return
            await changed.wait()

    async def _after(self, run_id: str, channel: Channel, seq: int) -> tuple[list[Message], int]:
        """Events after `seq`, and the number up to which these are all."""
        if seq >= channel.window_start:
            return [each for each in channel.window if each[0] > seq], channel.last_seq
        upto = min(seq + PAGE, channel.last_seq)

        def page() -> list[Message]:
            with self._db.read() as session:
                return read_messages(session, run_id, seq, upto)

        return await anyio.to_thread.run_sync(page), upto

    async def _poll(self) -> None:
        while True:
            if not self._channels:
                self._wanted.clear()
                await self._wanted.wait()
            known = {
                run_id: (channel.version, channel.last_seq)
                for run_id, channel in self._channels.items()
            }
            try:
                looks = await anyio.to_thread.run_sync(self._look, known)
            except SQLAlchemyError as error:
                logger.warning("streams wait for the database: %s", error)
                await asyncio.sleep(4 * POLL_S)
                continue
            for run_id in known:
                self._apply(run_id, looks.get(run_id))
            await asyncio.sleep(POLL_S)

    def _apply(self, run_id: str, look: Look | None) -> None:
        channel = self._channels.get(run_id)
        if channel is None:
            return
        if look is None:
            channel.deleted = True
            channel.announce()
            return
        if look.version == channel.version and look.last_seq == channel.last_seq:
            return
        if look.window_start != channel.last_seq:
            channel.window.clear()  # the new events do not follow on: the window starts afresh
            channel.window_start = look.window_start
        overflow = len(channel.window) + len(look.messages) - WINDOW
        if overflow > 0:
            both = [*channel.window, *look.messages]
            channel.window_start = both[overflow - 1][0]
        channel.window.extend(look.messages)
        channel.last_seq, channel.version, channel.state = look.last_seq, look.version, look.state
        if look.detail is not None:
            channel.detail = look.detail
        channel.announce()

    def _look(self, known: dict[str, tuple[int, int]]) -> dict[str, Look]:
        looks: dict[str, Look] = {}
        ids = list(known)
        with self._db.read() as session:
            for start in range(0, len(ids), PAGE):
                some = ids[start : start + PAGE]
                for run in session.scalars(select(Run).where(Run.id.in_(some))):
                    looks[run.id] = _look_at(session, run, *known[run.id])
        return looks


def _look_at(session: Session, run: Run, version: int, last_seq: int) -> Look:
    # The first look, and one after a long gap, leave what is old to the clients' own reading.
    window_start = last_seq if last_seq >= 0 else run.event_seq
    window_start = max(window_start, run.event_seq - WINDOW)
    messages: list[Message] = []
    if run.event_seq > window_start:
        messages = read_messages(session, run.id, window_start, run.event_seq)
    detail = None
    if run.version != version or run.event_seq != last_seq:
        detail = encode("run", run_detail(session, run).model_dump_json())
    return Look(
        version=run.version,
        state=RunState(run.state),
        last_seq=run.event_seq,
        detail=detail,
        messages=messages,
        window_start=window_start,
    )


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


def _chunks(messages: Iterable[Message], size_bytes: int = 32 * 1024) -> Iterable[bytes]:
    """The events glued together: few large writes instead of many small ones."""
    chunk = bytearray()
    for _, event in messages:
        chunk += event
        if len(chunk) >= size_bytes:
            yield bytes(chunk)
            chunk.clear()
    if chunk:
        yield bytes(chunk)
