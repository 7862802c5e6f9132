"""Sends server-sent events to one client; knows nothing of runs."""

from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager, aclosing
from typing import Protocol

from fastapi.sse import EventSourceResponse, format_sse_event
from starlette.types import Receive, Scope, Send


class Connection(Protocol):
    """What `app.server` puts into a request's state; other servers put nothing there."""

    def hold_little(self) -> None:
        """Keep the kernel's send buffer small, for clients that read slowly."""


def encode(event: str, data: str, seq: int | None = None) -> bytes:
    """One event; `data` is JSON."""
    return format_sse_event(event=event, data_str=data, id=None if seq is None else str(seq))


class EventStream(EventSourceResponse):
    """Sends events until there are no more or the client leaves.

    A client that stops reading is cut off by `app.server`, as for every other response.
    """

    def __init__(
        self, events: AsyncGenerator[bytes, None], slot: AbstractContextManager[None]
    ) -> None:
        """`slot` is held while the stream is open; it may refuse, before anything is sent."""
        # X-Accel-Buffering: nginx must pass each event on at once.
        super().__init__(events, headers={"X-Accel-Buffering": "no"})
        self._events, self._slot = events, slot

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        connection: Connection | None = scope.get("state", {}).get("connection")
        with self._slot:
            if connection is not None:
                connection.hold_little()
            async with aclosing(self._events):
                await super().__call__(scope, receive, send)
