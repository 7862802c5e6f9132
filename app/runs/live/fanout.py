"""The window of events shared by all clients of a live stream; uses no database."""

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from app.runs.states import FINAL, RunState

WINDOW = 1_000
WINDOW_BYTES = 1024**2
"""Newest events of a run kept in memory, for all its clients together."""
CHUNK_BYTES = 32 * 1024
"""Size of a write: large enough to save writes, small enough for thousands of slow clients."""
WAKE_AT_ONCE = 50
"""Clients woken before other tasks of the event loop have a turn."""

Message = tuple[int, bytes]
"""Sequence number and encoded event."""


@dataclass(frozen=True)
class Snapshot:
    """The state of one run as read from the database."""

    version: int
    state: RunState
    last_seq: int
    detail: bytes | None
    """None if the run has not changed."""
    messages: list[Message]
    """All events after `window_start`, up to `last_seq`."""
    window_start: int


class Channel:
    """The newest events of a run, encoded once, and a notification of more."""

    def __init__(self) -> None:
        self.clients = 0
        self.version = -1
        self.state: RunState | None = None
        self.deleted = False
        self.detail = b""
        """The `run` event as of `version`."""
        self.last_seq = -1
        """Newest sequence number in the database; -1 before the first poll."""
        self._window: deque[Message] = deque()
        self._window_bytes = 0
        self._window_start = 0
        """The window has all events after this number, up to `last_seq`."""
        self._latest: tuple[int, bytes, int] = (-1, b"", -1)
        """Argument and result of the last `after`, which most clients share."""
        self._waiting: set[asyncio.Future[None]] = set()

    @property
    def polled(self) -> bool:
        """Whether the run was read at least once."""
        return self.deleted or self.last_seq >= 0

    @property
    def ended(self) -> bool:
        return self.deleted or self.state in FINAL

    def apply(self, snapshot: Snapshot | None) -> bool:
        """Update from a snapshot, None for a deleted run; returns whether anything changed."""
        if snapshot is None:
            self.deleted = True
            return True
        if snapshot.version == self.version and snapshot.last_seq == self.last_seq:
            return False
        if snapshot.window_start != self.last_seq:  # not contiguous: restart the window
            self._window.clear()
            self._window_bytes, self._window_start = 0, snapshot.window_start
        self._window.extend(snapshot.messages)
        self._window_bytes += sum(len(event) for _, event in snapshot.messages)
        while len(self._window) > WINDOW or self._window_bytes > WINDOW_BYTES:
            self._window_start, event = self._window.popleft()
            self._window_bytes -= len(event)
        self.last_seq, self.version, self.state = (
            snapshot.last_seq,
            snapshot.version,
            snapshot.state,
        )
        if snapshot.detail is not None:
            self.detail = snapshot.detail
        self._latest = (-1, b"", -1)
        return True

    def after(self, seq: int) -> tuple[bytes, int] | None:
        """The next events after `seq` in one chunk, and the number up to which it is complete.

        None if the window does not reach back to `seq`.
        """
        if seq < self._window_start:
            return None
        if seq != self._latest[0]:
            newer: deque[Message] = deque()
            for message in reversed(self._window):
                if message[0] <= seq:
                    break
                newer.appendleft(message)
            self._latest = (seq, *concat(newer, self.last_seq))
        return self._latest[1:]

    def next_change(self) -> "asyncio.Future[None]":
        """Done at the next `wake`; get it before reading, or a change may be missed."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        return future

    def forget(self, future: "asyncio.Future[None]") -> None:
        """Stop waiting for this one."""
        self._waiting.discard(future)

    async def wake(self) -> None:
        """Wake all clients, a few at a time, so that thousands of them do not delay requests."""
        waiting, self._waiting = self._waiting, set()
        for number, future in enumerate(waiting, 1):
            if not future.done():
                future.set_result(None)
            if number % WAKE_AT_ONCE == 0:
                await asyncio.sleep(0)

    def wake_at_once(self) -> None:
        """Wake all clients at once, at shutdown."""
        for future in self._waiting:
            if not future.done():
                future.set_result(None)


def concat(messages: Iterable[Message], upto: int) -> tuple[bytes, int]:
    """The first events in one chunk, and the number up to which it is complete.

    `messages` are all events up to `upto`.
    """
    chunk = bytearray()
    reached = upto
    for seq, event in messages:
        if len(chunk) >= CHUNK_BYTES:
            return bytes(chunk), reached
        chunk += event
        reached = seq
    return bytes(chunk), upto
