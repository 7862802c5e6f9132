"""Serves the application with uvicorn: `python -m app.server`."""

import asyncio
import logging
import os
import re
import resource
import signal
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from app.errors import problem_response
from app.main import create_app
from app.monitoring import logs
from app.private_files import keep_private, make_files_private
from app.runs.live.hub import StreamHub
from app.settings import Settings
from app.web.connections import Connections
from app.web.middleware import SECURITY_HEADERS

logger = logging.getLogger(__name__)

UNSENT_BYTES = 32 * 1024
READ_BYTES = 64 * 1024
"""asyncio reads four times as much per connection, before a request is admitted."""
BACKLOG = 2048
ACCEPTED_AT_ONCE = 16
"""asyncio accepts this many connections before the first of them is counted."""
RESERVED_FILES = 192
"""Open files for everything but connections; fewer than live streams leave."""
_END_OF_HEAD = re.compile(rb"\n\r?\n")
_FRAMING = re.compile(
    rb"^(?:content-length|transfer-encoding)[ \t]*:(.*)$", re.IGNORECASE | re.MULTILINE
)


class Connection(H11Protocol):
    """Limits what clients hold without a complete, well-formed and authenticated request.

    Gives requests access to their connection: see `app.runs.live.sse.Connection`, and
    `mark_authenticated`, which `app.auth.dependencies` calls.
    """

    def __init__(
        self, *given: Any, open_connections: Connections, settings: Settings, **named: Any
    ) -> None:
        super().__init__(*given, **named)
        self._open_connections, self._settings = open_connections, settings
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._authenticated = False
        self.address = ""
        self.answering = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called by asyncio."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, "connection": self}
        transport.max_size = READ_BYTES  # type: ignore[attr-defined]
        self.address = self.client[0] if self.client else ""
        if self._open_connections.admit(self):
            self._note_state()
        else:
            logger.warning("refused a connection from %s: connection limit reached", self.address)
            self._refuse(503, "This server has reached its limit of connections.")

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self._open_connections.remove(self)
        self._stop_head_timer()
        self.resume_writing()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Called for received data; refuses ambiguous body lengths (request smuggling).

        h11 prefers Transfer-Encoding to Content-Length, and accepts one of two lengths.
        """
        if self.conn.their_state is h11.IDLE:
            self._authenticated = False
            head = _END_OF_HEAD.split(self.conn.trailing_data[0], 1)[0]
            framing = _FRAMING.findall(head)
            if len(framing) > 1 or any(b"," in value for value in framing):
                self._refuse(400, "Specify the body length once: by Content-Length or chunked.")
                return
        super().handle_events()
        self._note_state()

    def on_response_complete(self) -> None:
        """Called by uvicorn."""
        super().on_response_complete()
        self._note_state()

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn for invalid HTTP."""
        self._refuse(400, msg)

    def mark_authenticated(self) -> None:
        """Note that the current request is authenticated."""
        self._authenticated = True
        self._note_state()

    def evict(self) -> None:
        """Close it to make room for another connection."""
        logger.warning(
            "closed an unauthenticated connection from %s: connection limit reached", self.address
        )
        self.transport.abort()

    def pause_writing(self) -> None:
        """Called by asyncio when the client reads too slowly."""
        super().pause_writing()
        if self._write_timer is None:
            timeout_s = self._settings.write_timeout_s
            self._write_timer = self.loop.call_later(timeout_s, self.cut_off)

    def resume_writing(self) -> None:
        """Called by asyncio when the client has caught up."""
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def hold_little(self) -> None:
        """Keep the send buffer of the kernel small; by default it grows to megabytes."""
        self._set_option(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)

    def cut_off(self) -> None:
        """Reset the connection, which also drops what the kernel holds for it."""
        self._set_option(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _set_option(self, level: int, option: int, value: int | bytes) -> None:
        with suppress(OSError):  # the client has left, and the socket is closed
            self.transport.get_extra_info("socket").setsockopt(level, option, value)

    def _note_state(self) -> None:
        self.answering = self.cycle is not None and not self.cycle.response_complete
        self._open_connections.set_evictable(self, not (self.answering and self._authenticated))
        if self.answering or self.transport.is_closing():
            self._stop_head_timer()
        elif self._head_timer is None:
            timeout_s = self._settings.header_timeout_s
            self._head_timer = self.loop.call_later(timeout_s, self._end_waiting)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _end_waiting(self) -> None:
        if self.conn.trailing_data[0]:
            logger.warning("no complete request in time, from %s", self.address)
            self._refuse(408, "The request headers did not arrive in time.")
        else:
            self.transport.close()

    def _refuse(self, status: int, detail: str) -> None:
        """Respond without the application, and close."""
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            headers = {**SECURITY_HEADERS, "connection": "close"}
            if status == 503:
                headers["retry-after"] = "5"
            response = problem_response(status, detail, headers=headers)
            lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}".encode()]
            lines += [b"%s: %s" % header for header in response.raw_headers]
            self.transport.write(b"\r\n".join([*lines, b"", bytes(response.body)]))
        self._stop_head_timer()
        self.transport.close()


class Server(uvicorn.Server):
    """Ends live streams first at shutdown, since they never end by themselves."""

    def __init__(self, config: uvicorn.Config, streams: StreamHub, url: str) -> None:
        super().__init__(config)
        self._streams = streams
        self._url = url

    def _log_started_message(self, listeners: Sequence[socket.SocketType]) -> None:
        # The message of uvicorn names the listen address, such as http://0.0.0.0:8000.
        logger.info("serving at %s", self._url)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Called by uvicorn; raises the backlog above what asyncio accepts at once."""
        await super().startup(sockets)
        for listener in (each for server in self.servers for each in server.sockets):
            with socket.socket(fileno=os.dup(listener.fileno())) as again:
                again.listen(BACKLOG)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Called by uvicorn at shutdown."""
        self._streams.close()
        await super().shutdown(sockets)


def main() -> None:
    """Serves until SIGTERM or SIGINT."""
    settings = Settings()
    logs.configure(settings.log_format, "api")
    make_files_private()
    keep_private(settings)
    files = _open_many_files()
    app = create_app(settings)
    connections = Connections(
        min(settings.max_connections, max(1, files - RESERVED_FILES)),
        settings.max_connections_per_address,
    )
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=partial(Connection, open_connections=connections, settings=settings),  # type: ignore[arg-type]
        ws="none",
        backlog=ACCEPTED_AT_ONCE,
        server_header=False,
        log_config=None,
        access_log=False,  # `app.web.middleware` writes a line with more in it
        timeout_graceful_shutdown=2,
    )
    server = Server(config, app.state.context.streams, settings.public_url or settings.local_url)
    # uvicorn shuts down and then raises the signal again.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        sys.exit(1)


def _open_many_files() -> int:
    """Raise the limit of open files as far as possible, since every live stream is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


if __name__ == "__main__":
    main()
