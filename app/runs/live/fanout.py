"""What all clients of one run's live stream share; touches no database."""

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from app.runs.states import FINAL, RunState

WINDOW = 1_000
WINDOW_BYTES = 1024**2
"""Newest events of a run that are kept in memory, for all its clients together."""
CHUNK_BYTES = 32 * 1024
"""So much is sent at once: few large writes instead of many small ones, and no more than this, for
a client may be slow, and there may be thousands."""
WAKE_AT_ONCE = 50
"""So many clients are served before everybody else in the event loop has a turn."""

Message = tuple[int, bytes]
"""Sequence number and encoded event."""


@dataclass(frozen=True)
class Snapshot:
    """What one look at the database found for one run."""

    version: int
    state: RunState
    last_seq: int
    detail: bytes | None
    """None if nothing of the run has changed."""
    messages: list[Message]
    """All events after `window_start`, up to `last_seq`."""
    window_start: int


class Channel:
    """The newest events of a run, encoded once, and a bell that tells of more."""

    def __init__(self) -> None:
        self.clients = 0
        self.version = -1
        self.state: RunState | None = None
        self.deleted = False
        self.detail = b""
        """The `run` event as of `version`."""
        self.last_seq = -1
        """Everything up to here is in the database; -1 before the first look."""
        self._window: deque[Message] = deque()
        self._window_bytes = 0
        self._window_start = 0
        """The window holds every event after this number, up to `last_seq`."""
        self._latest: tuple[int, bytes, int] = (-1, b"", -1)
        """The last answer of `after` and its question: most clients ask the same."""
        self._waiting: set[asyncio.Future[None]] = set()

    @property
    def looked(self) -> bool:
        """Whether anything is known yet."""
        return self.deleted or self.last_seq >= 0

    @property
    def ended(self) -> bool:
        return self.deleted or self.state in FINAL

    def apply(self, look: Snapshot | None) -> bool:
        """Take over what a look found, None for a run that is gone; whether that was new."""
        if look is None:
            self.deleted = True
            return True
        if look.version == self.version and look.last_seq == self.last_seq:
            return False
        if look.window_start != self.last_seq:  # the new events do not follow on: start afresh
            self._window.clear()
            self._window_bytes, self._window_start = 0, look.window_start
        self._window.extend(look.messages)
        self._window_bytes += sum(len(event) for _, event in look.messages)
        while len(self._window) > WINDOW or self._window_bytes > WINDOW_BYTES:
            self._window_start, event = self._window.popleft()
            self._window_bytes -= len(event)
        self.last_seq, self.version, self.state = look.last_seq, look.version, look.state
        if look.detail is not None:
            self.detail = look.detail
        self._latest = (-1, b"", -1)
        return True

    def after(self, seq: int) -> tuple[bytes, int] | None:
        """The next events after `seq`, glued together, and the number up to which they are all.

        None if the window does not reach back so far.
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

    # ------------------------------------------------------------------------------- the bell

    def next_change(self) -> "asyncio.Future[None]":
        """Done at the next `wake`; take it before looking, or a change may be slept through."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        return future

    def forget(self, future: "asyncio.Future[None]") -> None:
        """Nobody waits for this one any more."""
        self._waiting.discard(future)

    async def wake(self) -> None:
        """Wake all clients, a few at a time: thousands of them must not hold up a request."""
        waiting, self._waiting = self._waiting, set()
        for number, future in enumerate(waiting, 1):
            if not future.done():
                future.set_result(None)
            if number % WAKE_AT_ONCE == 0:
                await asyncio.sleep(0)

    def wake_at_once(self) -> None:
        """Wake all clients, for the last time."""
        for future in self._waiting:
            if not future.done():
                future.set_result(None)


def concat(messages: Iterable[Message], upto: int) -> tuple[bytes, int]:
    """The first of the events, as many as make a chunk, and up to which number these are all.

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
