"""Middleware of every request: host check, security headers, request times and log."""

import logging
import secrets
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import problem_response
from app.monitoring import logs
from app.monitoring.prometheus import Telemetry
from app.web.authority import parse_authority

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
LOGGED_ON_ERROR = frozenset({"healthz", "readyz", "prometheus_metrics"})
"""Polled every few seconds: logged only on errors."""
access_logger = logging.getLogger("app.requests")


class OutermostMiddleware:
    """Security headers on every response, request times and log, problem+json for a 500."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self.app = app
        self.telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        # Never the id of the client: it must be unique, and safe in a log.
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
                    # Streams are open for hours: count the time to the first byte.
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
                raise  # the response has begun: only a broken connection signals the error
            response = problem_response(
                500,
                f"Internal server error; see request {request_id} in the server log.",
                headers={"connection": "close"},  # its body may not have been read
            )
            await response(scope, receive, send_with_headers)
        finally:
            # The name of the operation; the path of a route lacks the prefix of its routers.
            route = getattr(scope.get("route"), "name", None)
            elapsed_s = time.perf_counter() - started_s
            self.telemetry.observe(scope["method"], route, status, answered_s or elapsed_s)
            _log(scope, route, status, elapsed_s)


def _log(scope: Scope, route: str | None, status: int, elapsed_s: float) -> None:
    """Log one line; status 0 is a client that disconnected before the response."""
    level = logging.DEBUG if route in LOGGED_ON_ERROR and status < 400 else logging.INFO
    # Percent-encoded as sent, and without the query, which may contain anything.
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
    """Answers HEAD like GET, without the body."""

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
            # The body is skipped: it may be a large file or an endless stream.
            raise _HeadersSent

        try:
            await self.app(as_get, receive, send_headers)
        except* _HeadersSent:
            pass
        finally:
            scope["route"] = as_get.get("route")


class _HeadersSent(Exception):
    """The response to a HEAD is complete."""


class HostMiddleware:
    """Refuses requests whose host is malformed or not on the allow-list (DNS rebinding)."""

    def __init__(self, app: ASGIApp, allowed_hosts: list[str]) -> None:
        self.app = app
        self.allowed = {host.lower().strip("[]") for host in allowed_hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._allows(Headers(scope=scope).getlist("host")):
            response = problem_response(
                400,
                "This host name is not allowed; it can be added to HALFLAYER_ALLOWED_HOSTS.",
                slug="unknown-host",
                title="Unknown host",
            )
            await response(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _allows(self, hosts: list[str]) -> bool:
        found = parse_authority(hosts[0]) if len(hosts) == 1 else None
        return found is not None and ("*" in self.allowed or found[0] in self.allowed)
