"""Limits of size and time for request bodies, which are read only once a route admits them.

Pure ASGI, so that bodies are counted while they arrive.
"""

import time

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.web.limits import Budget

MULTIPART_SLACK_BYTES = 64 * 1024
"""Room for the multipart framing and the small fields around an uploaded file."""
MIN_BYTES_PER_S = 16 * 1024
"""Minimum average upload speed."""
LINGER_S = 2.0
LINGER_BYTES = 4 * 1024**2
LINGERING = 8
"""Limits of time, bytes and clients for reading on after a refusal: a connection closed at once
would be reset, often before the client has read the response."""


class BodyMiddleware:
    """Gives each request its `Body`; closes the connection if the body was not read completely."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._lingering = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = Body(receive, Headers(scope=scope))
        scope.setdefault("state", {})["body"] = body

        async def send_or_close(message: Message) -> None:
            if body.aborted:
                return  # the client has left
            last = message["type"] == "http.response.body" and not message.get("more_body", False)
            if not body.ended and message["type"] == "http.response.start":
                # Otherwise the server would wait for the rest of the body.
                MutableHeaders(scope=message)["connection"] = "close"
            if not body.ended and last and self._lingering < LINGERING:
                self._lingering += 1
                try:
                    await send({**message, "more_body": True})
                    await body.drain()
                finally:
                    self._lingering -= 1
                message = {"type": "http.response.body", "body": b"", "more_body": False}
            await send(message)

        try:
            await self.app(scope, body.receive, send_or_close)
        except ClientDisconnect:
            pass  # logged as status 0
        finally:
            body.free()


class Body:
    """The body of one request; discarded unless admitted."""

    def __init__(self, receive: Receive, headers: Headers) -> None:
        self._receive, self._headers = receive, headers
        self.announced = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        self.ended = not self.announced
        self.aborted = False
        """Whether the client disconnected before the end of its body."""
        self._limit_bytes: int | None = None
        self._timeout_s = 0.0
        self._received_bytes = 0
        self._waited_s = 0.0
        self._budget: Budget | None = None
        self._client = ""
        self._held_bytes = 0

    def admit(
        self,
        media_type: str,
        limit_bytes: int,
        timeout_s: float,
        budget: Budget | None,
        client: str,
    ) -> None:
        """Accept the body; raises HTTPException 413 or 415 if its headers rule that out.

        `budget` limits the bytes of bodies in memory, by `client`; None for a body that is not kept
        in memory.
        """
        # A compressed body could be of any size when unpacked.
        if self._headers.get("content-encoding", "identity").strip().lower() != "identity":
            raise HTTPException(415, "Send the body without a Content-Encoding.")
        sent = self._headers.get("content-type", "").partition(";")[0].strip().lower()
        if sent != media_type:
            kind = sent or "of no declared type"
            raise HTTPException(415, f"Send the body as {media_type}; this one is {kind}.")
        if int(self._headers.get("content-length", "0")) > limit_bytes:
            raise _too_large(limit_bytes)
        self._limit_bytes, self._timeout_s = limit_bytes, timeout_s
        self._budget, self._client = budget, client

    async def receive(self) -> Message:
        """The ASGI callable; raises HTTPException 408, 413 or 503 for a body beyond its limits."""
        if self.ended:
            return await self._receive()
        if self._limit_bytes is None:
            return {**self._note(await self._receive()), "body": b""}
        # Only the time of the client counts.
        rest_s = self._timeout_s + self._received_bytes / MIN_BYTES_PER_S - self._waited_s
        started_s = time.monotonic()
        with anyio.move_on_after(min(rest_s, self._timeout_s)) as waiting:
            message = self._note(await self._receive())
        if waiting.cancelled_caught:
            raise HTTPException(
                408,
                f"The body did not arrive in time: nothing for {self._timeout_s:g} seconds, "
                f"or less than {MIN_BYTES_PER_S // 1024} KiB a second on average.",
            )
        self._waited_s += time.monotonic() - started_s
        if self._received_bytes > self._limit_bytes:
            raise _too_large(self._limit_bytes)
        self._hold(len(message.get("body", b"")))
        return message

    async def drain(self) -> None:
        """Read and discard for a moment, so that the client reads its response."""
        up_to_bytes = self._received_bytes + LINGER_BYTES
        with anyio.move_on_after(LINGER_S):
            while not self.ended and not self.aborted and self._received_bytes < up_to_bytes:
                self._note(await self._receive())

    def free(self) -> None:
        """Release the memory budget of the body."""
        if self._budget is not None:
            self._budget.give_back(self._client, self._held_bytes)

    def _hold(self, size_bytes: int) -> None:
        if self._budget is None:
            return
        if not self._budget.take(self._client, size_bytes):
            own = self._budget.has_room_for(self._client, size_bytes)
            whose = "This server" if own else "This client"
            raise HTTPException(
                503,
                f"{whose} has too many request bytes pending; try again in a moment.",
                headers={"Retry-After": "5"},
            )
        self._held_bytes += size_bytes

    def _note(self, message: Message) -> Message:
        if message["type"] == "http.disconnect":
            self.aborted = not self.ended
            return message
        self._received_bytes += len(message.get("body", b""))
        self.ended = not message.get("more_body", False)
        return message


def _too_large(limit_bytes: int) -> HTTPException:
    return HTTPException(413, f"The body is larger than the limit of {limit_bytes:,} bytes.")
