"""What happens to every request before routing and to every response: hosts, limits, headers.

Pure ASGI, so that bodies are counted while they arrive and nothing is held in memory.
"""

import logging
import secrets
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import logs
from app.errors import problem_response
from app.telemetry import Telemetry

logger = logging.getLogger(__name__)

CONTENT_SECURITY_POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; "
    "frame-ancestors 'none'"
)
SECURITY_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
UPLOAD_PATH = "/api/v1/datasets"
MULTIPART_SLACK_BYTES = 64 * 1024
"""Room for the multipart framing and the small fields around an uploaded file."""
BODY_METHODS = frozenset({"POST", "PUT", "PATCH"})
UNNOTED = frozenset({"healthz", "readyz", "prometheus_metrics"})
"""Asked every few seconds by machines: written down only when something is wrong."""
access_logger = logging.getLogger("app.requests")


class OutermostMiddleware:
    """Security headers on every response, request times and log, words instead of a bare 500."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self.app = app
        self.telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        # Ours, never the client's: it must be one of a kind, and harmless in a log.
        request_id = secrets.token_hex(8)
        with logs.bound(request_id=request_id):
            await self._serve(scope, receive, send, request_id)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        started_s = time.perf_counter()
        answered_s: float | None = None
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status, answered_s
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                if headers.get("content-type", "").startswith("text/event-stream"):
                    # Open for hours, by intent: what counts is how soon it began.
                    answered_s = time.perf_counter() - started_s
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                if scope["path"].startswith("/api/"):
                    headers.setdefault("cache-control", "no-store")
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        except Exception:
            logger.exception("%s %s failed", scope["method"], scope["path"])
            if status:
                raise  # half a response is out: only a broken connection tells the client so
            response = problem_response(
                500, f"The server made a mistake; its log says which, at request {request_id}."
            )
            await response(scope, receive, send_with_headers)
        finally:
            # The operation's name; a route's path lacks the prefix of the routers around it.
            route = getattr(scope.get("route"), "name", None)
            elapsed_s = time.perf_counter() - started_s
            self.telemetry.observe(scope["method"], route, status, answered_s or elapsed_s)
            _note(scope, route, status, elapsed_s)


def _note(scope: Scope, route: str | None, status: int, elapsed_s: float) -> None:
    """One line for the log; a status of 0 is a client that left before it was answered."""
    level = logging.DEBUG if route in UNNOTED and status < 400 else logging.INFO
    # As it was sent, still percent-encoded, and without the query: both may hold anything.
    path = scope.get("raw_path", b"").decode("ascii", "backslashreplace")
    access_logger.log(
        level,
        "%s %s %d",
        scope["method"],
        path,
        status,
        extra={
            "route": route or "none",
            "status": status,
            "ms": round(1000 * elapsed_s, 1),
            "client": scope["client"][0] if scope.get("client") else "",
        },
    )


class HeadMiddleware:
    """Answers every HEAD as the GET of the same path, up to the end of the headers."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return
        as_get = {**scope, "method": "GET"}

        async def send_headers(message: Message) -> None:
            await send(message)
            await send({"type": "http.response.body"})
            # What follows is a body: a large file is not worth reading, a stream never ends.
            raise _HeadersSent

        try:
            await self.app(as_get, receive, send_headers)
        except* _HeadersSent:
            pass
        finally:
            scope["route"] = as_get.get("route")


class _HeadersSent(Exception):
    """A HEAD has had its whole answer."""


class HostMiddleware:
    """Refuses requests that name a host which is not on the allow-list (DNS rebinding)."""

    def __init__(self, app: ASGIApp, allowed_hosts: list[str]) -> None:
        self.app = app
        self.allowed = {host.lower().strip("[]") for host in allowed_hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._allows(Headers(scope=scope).getlist("host")):
            response = problem_response(
                400,
                "This server does not answer to that host name; "
                "its operator can add it to HALFLAYER_ALLOWED_HOSTS.",
                slug="unknown-host",
                title="Unknown host",
            )
            await response(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _allows(self, hosts: list[str]) -> bool:
        if len(hosts) != 1:
            return False
        return "*" in self.allowed or _host_name(hosts[0]) in self.allowed


class BodyMiddleware:
    """Counts the bytes of a body while they arrive and refuses what is too large or not JSON."""

    def __init__(self, app: ASGIApp, max_body_bytes: int, max_upload_bytes: int) -> None:
        self.app = app
        self.max_body_bytes = max_body_bytes
        self.max_upload_bytes = max_upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        upload = scope["path"].rstrip("/") == UPLOAD_PATH and scope["method"] == "POST"
        limit_bytes = self.max_body_bytes
        if upload:
            limit_bytes = self.max_upload_bytes + MULTIPART_SLACK_BYTES
        refusal = _refuse_type(scope["method"], headers, upload)
        declared = headers.get("content-length", "0")
        if refusal is None and declared.isdecimal() and int(declared[:20]) > limit_bytes:
            refusal = (413, _too_large(limit_bytes))
        body = _Body(receive, limit_bytes, ended=not _has_body(headers))

        async def send_or_hang_up(message: Message) -> None:
            if message["type"] == "http.response.start" and not body.ended:
                # The server would read the rest of the body to its end, which may never come.
                MutableHeaders(scope=message)["connection"] = "close"
            await send(message)

        if refusal is not None:
            status, detail = refusal
            await problem_response(status, detail)(scope, body.receive, send_or_hang_up)
            return
        await self.app(scope, body.receive, send_or_hang_up)


class _Body:
    """A request's body on its way in; raises once it is longer than `limit_bytes`."""

    def __init__(self, receive: Receive, limit_bytes: int, ended: bool) -> None:
        self._receive, self._limit_bytes, self._received_bytes = receive, limit_bytes, 0
        self.ended = ended

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._received_bytes += len(message.get("body", b""))
            if self._received_bytes > self._limit_bytes:
                raise HTTPException(413, _too_large(self._limit_bytes))
            self.ended = not message.get("more_body", False)
        return message


def _has_body(headers: Headers) -> bool:
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


def _refuse_type(method: str, headers: Headers, upload: bool) -> tuple[int, str] | None:
    if method not in BODY_METHODS or not _has_body(headers):
        return None
    # A packed body could be small on its way in and endless when unpacked.
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        return 415, "Send the body as it is, without a Content-Encoding."
    sent = headers.get("content-type", "").partition(";")[0].strip().lower()
    wanted = "multipart/form-data" if upload else "application/json"
    if sent == wanted:
        return None
    return 415, f"Send the body as {wanted}; this one is {sent or 'of no declared type'}."


def _too_large(limit_bytes: int) -> str:
    return f"The body is larger than the {limit_bytes:,} bytes that this server takes here."


def _host_name(header: str) -> str:
    """The host of a Host header in lower case, without its port and brackets."""
    header = header.strip().lower()
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]
