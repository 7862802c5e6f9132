"""Tails metric and log rows over SSE; writes nothing.

One poller serves all clients of this process. It looks at the streamed runs twice a second and
keeps each run's newest events, encoded once, in a bounded window. A client holds no queue: it reads
from the window at its own pace and, when it is further behind than the window reaches, from the
database in pages that are shared too. So a slow reader costs nothing but its connection, and that
not for ever.

The same look finds the credentials that have been revoked or have expired since: their streams end.
"""

import asyncio
import logging
import resource
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass

import anyio.to_thread
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.auth.service import live_ids
from app.db import Database
from app.errors import Unavailable
from app.runs.live.fanout import WINDOW, Channel, Message, Snapshot
from app.runs.live.history import Pages, read_messages
from app.runs.live.sse import SILENCE, EventStream, encode
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
"""Open files that are left to everything but streams."""


class TooManyStreams(Unavailable):
    """As many pages are watching runs as this server takes."""

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
        self._patience_s = settings.stream_patience_s
        self._channels: dict[str, Channel] = {}
        self._holders: dict[str, Credential] = {}
        self._task: asyncio.Task[None] | None = None
        self._wanted = asyncio.Event()
        self._pages = Pages(db)
        self._closing = False
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.max_clients = min(settings.max_streams, max(0, files - SPARE_FILES))
        self.clients = 0
        self.refused = 0

    async def start(self) -> None:
        """Begin to poll; call it once, in the event loop that serves the clients."""
        self._wanted = asyncio.Event()
        self._task = asyncio.create_task(self._poll(), name="stream-poller")

    def close(self) -> None:
        """End all streams; their clients come back, to this server's successor."""
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
        """Raise NotFound unless the run exists; holds no session afterwards."""

        def check() -> None:
            with self._db.read() as session:
                if session.get(Run, run_id) is None:
                    raise RunNotFound(run_id)

        await anyio.to_thread.run_sync(check)

    def response(self, run_id: str, after_seq: int, token_id: str) -> EventStream:
        """The stream of a run that is known to exist, after the event that the client has.

        It ends early when the credential `token_id` opens nothing any more.
        """
        events = self._events(run_id, after_seq, token_id)
        return EventStream(events, self._place(), self._patience_s)

    @contextmanager
    def _place(self) -> Iterator[None]:
        if self.clients >= self.max_clients:
            self.refused += 1
            raise TooManyStreams(
                f"{self.clients} pages are watching runs live, and this server takes no more; "
                "the run itself can be read at any time."
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
        holder = self._holders.setdefault(token_id, Credential())
        channel.clients += 1
        holder.clients += 1
        self._wanted.set()
        try:
            async with aclosing(self._follow(run_id, channel, holder, after_seq)) as events:
                async for event in events:
                    yield event
        except SQLAlchemyError as error:
            # The client reconnects with Last-Event-ID and loses nothing.
            logger.warning("stream of run %s broken off: %s", run_id, error)
        finally:
            channel.clients -= 1
            if channel.clients == 0:
                self._channels.pop(run_id, None)
            holder.clients -= 1
            if holder.clients == 0:
                self._holders.pop(token_id, None)

    async def _follow(
        self, run_id: str, channel: Channel, holder: Credential, seq: int
    ) -> AsyncGenerator[bytes, None]:
        shown_version = -1
        changed = channel.next_change()
        try:
            while holder.live and not self._closing:
                if changed.done():
                    changed = channel.next_change()
                if channel.looked:
                    news = b""
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
                        continue
                await asyncio.wait([changed], timeout=HEARTBEAT_S)
                if not changed.done():
                    yield SILENCE
        finally:
            channel.forget(changed)

    async def _after(self, run_id: str, channel: Channel, seq: int) -> tuple[bytes, int]:
        """The next events after `seq`, and the number up to which these are all."""
        in_memory = channel.after(seq)
        return in_memory or await self._pages.after(run_id, seq, channel.last_seq)

    async def _poll(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            if not self._channels:
                self._wanted.clear()
                await self._wanted.wait()
            known = {
                run_id: (channel.version, channel.last_seq)
                for run_id, channel in self._channels.items()
            }
            holders = set(self._holders)
            started_s = clock()
            try:
                looks, live = await anyio.to_thread.run_sync(self._look, known, holders)
            except SQLAlchemyError as error:
                logger.warning("streams wait for the database: %s", error)
                await asyncio.sleep(4 * POLL_S)
                continue
            for run_id in known:
                channel = self._channels.get(run_id)
                if channel is not None and channel.apply(looks.get(run_id)):
                    await channel.wake()
            await self._let_go(holders - live)
            # Many clients make each round long: then half of the time is everybody else's.
            await asyncio.sleep(max(POLL_S, clock() - started_s))

    async def _let_go(self, token_ids: set[str]) -> None:
        """End the streams of these credentials."""
        for token_id in token_ids & self._holders.keys():
            self._holders[token_id].live = False
        if token_ids:
            for channel in list(self._channels.values()):
                await channel.wake()

    def _look(
        self, known: dict[str, tuple[int, int]], holders: set[str]
    ) -> tuple[dict[str, Snapshot], set[str]]:
        looks: dict[str, Snapshot] = {}
        ids = list(known)
        with self._db.read() as session:
            for start in range(0, len(ids), RUNS_AT_ONCE):
                some = ids[start : start + RUNS_AT_ONCE]
                for run in session.scalars(select(Run).where(Run.id.in_(some))):
                    looks[run.id] = _look_at(session, run, *known[run.id])
            return looks, live_ids(session, holders)


def _look_at(session: Session, run: Run, version: int, last_seq: int) -> Snapshot:
    # What is older than the window is left to the clients' own reading. The first look fills it:
    # after a restart all clients come back at once, and want the same.
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
