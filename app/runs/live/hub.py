"""Tails metric and log rows over SSE; writes nothing.

One poller serves all clients of this process. It reads the streamed runs twice a second and keeps
the newest events of each run, encoded once, in a bounded window. Clients have no queues: they read
from the window at their own pace and, when too far behind, from the database in shared pages. So a
slow reader costs only its connection.

The poller also ends the streams of revoked and expired credentials.
"""

import asyncio
import logging
import resource
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass

import anyio.to_thread
from fastapi.sse import KEEPALIVE_COMMENT
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.auth.service import live_ids
from app.db import Database
from app.errors import Unavailable
from app.runs.live.fanout import WINDOW, Channel, Message, Snapshot
from app.runs.live.history import Pages, read_messages
from app.runs.live.sse import EventStream, encode
from app.runs.models import Run
from app.runs.schemas import EndEvent
from app.runs.states import RunState
from app.runs.transitions import RunNotFound
from app.runs.views import run_detail
from app.settings import Settings

logger = logging.getLogger(__name__)

POLL_S = 0.5
HEARTBEAT_S = 15.0
RUNS_AT_ONCE = 500
SPARE_FILES = 256
"""Open files reserved for everything but streams."""


class TooManyStreams(Unavailable):
    """The limit of live streams is reached."""

    retry_after_s = 30


@dataclass
class Credential:
    """A credential with open streams."""

    clients: int = 0
    live: bool = True


class StreamHub:
    """The poller of one API process and the channels it feeds."""

    def __init__(self, db: Database, settings: Settings) -> None:
        self._db = db
        self._channels: dict[str, Channel] = {}
        self._credentials: dict[str, Credential] = {}
        self._task: asyncio.Task[None] | None = None
        self._wanted = asyncio.Event()
        self._pages = Pages(db)
        self._closing = False
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.max_clients = min(settings.max_streams, max(0, files - SPARE_FILES))
        self.clients = 0
        self.refused = 0

    async def start(self) -> None:
        """Start polling; call it once, in the event loop that serves the clients."""
        self._wanted = asyncio.Event()
        self._task = asyncio.create_task(self._poll(), name="stream-poller")

    def close(self) -> None:
        """End all streams; their clients reconnect."""
        self._closing = True
        for channel in self._channels.values():
            channel.wake_at_once()

    async def stop(self) -> None:
        """Stop polling."""
        self.close()
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def require_run(self, run_id: str) -> None:
        """Raise RunNotFound unless the run exists; keeps no session open."""

        def check() -> None:
            with self._db.read() as session:
                if session.get(Run, run_id) is None:
                    raise RunNotFound(run_id)

        await anyio.to_thread.run_sync(check)

    def response(self, run_id: str, after_seq: int, token_id: str) -> EventStream:
        """The stream of an existing run, after the event `after_seq`.

        It ends early when the credential `token_id` becomes invalid.
        """
        events = self._events(run_id, after_seq, token_id)
        return EventStream(events, self._slot())

    @contextmanager
    def _slot(self) -> Iterator[None]:
        if self.clients >= self.max_clients:
            self.refused += 1
            raise TooManyStreams(
                f"This server has reached its limit of {self.clients} live streams; the run itself "
                "can be read at any time."
            )
        self.clients += 1
        try:
            yield
        finally:
            self.clients -= 1

    async def _events(
        self, run_id: str, after_seq: int, token_id: str
    ) -> AsyncGenerator[bytes, None]:
        channel = self._channels.setdefault(run_id, Channel())
        credential = self._credentials.setdefault(token_id, Credential())
        channel.clients += 1
        credential.clients += 1
        self._wanted.set()
        try:
            async with aclosing(self._follow(run_id, channel, credential, after_seq)) as events:
                async for event in events:
                    yield event
        except SQLAlchemyError as error:
            # The client reconnects with Last-Event-ID and loses nothing.
            logger.warning("stream of run %s interrupted: %s", run_id, error)
        finally:
            channel.clients -= 1
            if channel.clients == 0:
                self._channels.pop(run_id, None)
            credential.clients -= 1
            if credential.clients == 0:
                self._credentials.pop(token_id, None)

    async def _follow(
        self, run_id: str, channel: Channel, credential: Credential, seq: int
    ) -> AsyncGenerator[bytes, None]:
        shown_version = -1
        changed = channel.next_change()
        try:
            while credential.live and not self._closing:
                if changed.done():
                    changed = channel.next_change()
                if channel.polled:
                    news, reached = b"", seq
                    if channel.version != shown_version and not channel.ended:
                        shown_version, news = channel.version, channel.detail
                    if seq < channel.last_seq and not channel.deleted:
                        chunk, seq = await self._after(run_id, channel, seq)
                        news += chunk
                    elif channel.ended:
                        yield _end(channel)
                        return
                    if news:
                        yield news
                    # Sequence numbers without an event bring no news, but the end may follow.
                    if news or seq != reached:
                        continue
                await asyncio.wait([changed], timeout=HEARTBEAT_S)
                if not changed.done():
                    yield KEEPALIVE_COMMENT
        finally:
            channel.forget(changed)

    async def _after(self, run_id: str, channel: Channel, seq: int) -> tuple[bytes, int]:
        """The next events after `seq`, and the number up to which they are complete."""
        in_memory = channel.after(seq)
        return in_memory or await self._pages.after(run_id, seq, channel.last_seq)

    async def _poll(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            if not self._channels:
                self._wanted.clear()
                await self._wanted.wait()
            channels = dict(self._channels)
            known = {
                run_id: (channel.version, channel.last_seq) for run_id, channel in channels.items()
            }
            credentials = set(self._credentials)
            started_s = clock()
            try:
                snapshots, live = await anyio.to_thread.run_sync(self._read, known, credentials)
            except SQLAlchemyError as error:
                logger.warning("streams: database error, trying again: %s", error)
                await asyncio.sleep(4 * POLL_S)
                continue
            except Exception:
                logger.exception("streams: poll failed, trying again")
                await asyncio.sleep(4 * POLL_S)
                continue
            for run_id, snapshot in snapshots.items():
                channel = channels[run_id]
                # The clients may have left and others come, whose channel lacks what this one has.
                if self._channels.get(run_id) is channel and channel.apply(snapshot):
                    await channel.wake()
            await self._end_streams_of(credentials - live)
            # With many clients a round takes long: leave half of the time to other tasks.
            await asyncio.sleep(max(POLL_S, clock() - started_s))

    async def _end_streams_of(self, token_ids: set[str]) -> None:
        """End the streams of these credentials."""
        for token_id in token_ids & self._credentials.keys():
            self._credentials[token_id].live = False
        if token_ids:
            for channel in list(self._channels.values()):
                await channel.wake()

    def _read(
        self, known: dict[str, tuple[int, int]], credentials: set[str]
    ) -> tuple[dict[str, Snapshot | None], set[str]]:
        """Snapshots of the runs, None for a deleted one, and the valid credentials."""
        ids = list(known)
        snapshots: dict[str, Snapshot | None] = dict.fromkeys(ids)
        with self._db.read() as session:
            for start in range(0, len(ids), RUNS_AT_ONCE):
                some = ids[start : start + RUNS_AT_ONCE]
                for run in session.scalars(select(Run).where(Run.id.in_(some))):
                    try:
                        snapshots[run.id] = _snapshot(session, run, *known[run.id])
                    except SQLAlchemyError:
                        raise
                    except Exception:  # one bad run must not stop the streams of all others
                        logger.exception("stream of run %s: cannot read it", run.id)
                        del snapshots[run.id]
            return snapshots, live_ids(session, credentials)


def _snapshot(session: Session, run: Run, version: int, last_seq: int) -> Snapshot:
    # Clients read older events themselves. The first snapshot fills the window, since after a
    # restart all clients reconnect at once and need the same events.
    window_start = max(last_seq, 0, run.event_seq - WINDOW)
    messages: list[Message] = []
    if run.event_seq > window_start:
        messages = read_messages(session, run.id, window_start, run.event_seq)
    detail = None
    if run.version != version or run.event_seq != last_seq:
        detail = encode("run", run_detail(session, run).model_dump_json())
    return Snapshot(
        version=run.version,
        state=RunState(run.state),
        last_seq=run.event_seq,
        detail=detail,
        messages=messages,
        window_start=window_start,
    )


def _end(channel: Channel) -> bytes:
    """The last events of a stream."""
    if channel.deleted:
        return encode("end", EndEvent(state=None).model_dump_json())
    return channel.detail + encode("end", EndEvent(state=channel.state).model_dump_json())
