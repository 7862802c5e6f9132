"""Sends server-sent events to one client; knows nothing of runs.

Two tasks a client, the one that sends and the one that hears it leave, since thousands of clients
are to fit into one process.
"""

from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager, aclosing
from typing import Protocol

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

SILENCE = b": nothing new\n\n"
"""A comment, which clients skip; it keeps the proxies in between from hanging up."""


def encode(event: str, data: str, seq: int | None = None) -> bytes:
    """One event; `data` is JSON without line breaks."""
    head = f"id: {seq}\n" if seq is not None else ""
    return f"{head}event: {event}\ndata: {data}\n\n".encode()


class Connection(Protocol):
    """What `app.server` puts into a request's state; a server that is not ours gives none."""

    def hold_little(self) -> None:
        """Let the kernel keep little for a reader that is slow."""

    def cut_off(self) -> None:
        """Drop the connection with all that it has not taken."""


class EventStream(Response):
    """Events as they come, until there are no more, the client leaves, or it takes nothing."""

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        place: AbstractContextManager[None],
        patience_s: float,
    ) -> None:
        """`place` is held while the stream is open; it may refuse, before anything is sent."""
        self.status_code = 200
        self.background = None
        # X-Accel-Buffering: nginx shall pass each event on at once.
        self.init_headers({"x-accel-buffering": "no"})
        self._events, self._place, self._patience_s = events, place, patience_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        connection: Connection | None = scope.get("state", {}).get("connection")
        with self._place:
            if connection is not None:
                connection.hold_little()
            async with anyio.create_task_group() as both:
                both.start_soon(_until_gone, receive, both.cancel_scope)
                if not await self._send_all(send) and connection is not None:
                    # A polite end would wait until all is taken, which from such a client may be
                    # for ever. The other task ends this one once the server has seen it.
                    connection.cut_off()
                    await anyio.sleep_forever()
                both.cancel_scope.cancel()

    async def _send_all(self, send: Send) -> bool:
        """False if the client took nothing for too long."""
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        async with aclosing(self._events) as events:
            async for event in events:
                with anyio.move_on_after(self._patience_s) as patience:
                    await send({"type": "http.response.body", "body": event, "more_body": True})
                if patience.cancelled_caught:
                    return False
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return True


async def _until_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue
    scope.cancel()
