"""Serves the application with uvicorn, as the settings say: `python -m app.serve`."""

import asyncio
import logging
import resource
import signal
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from app import logs
from app.main import create_app
from app.private import keep_private, make_files_private
from app.runs.stream import StreamHub
from app.settings import Settings

logger = logging.getLogger(__name__)

UNSENT_BYTES = 32 * 1024


class Connection(H11Protocol):
    """Gives every request a hold on its connection; see `app.runs.sse.Connection`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called by asyncio."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, "connection": self}

    def hold_little(self) -> None:
        """Let the kernel take little more than is on its way; by itself it takes megabytes."""
        link = self.transport.get_extra_info("socket")
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)

    def cut_off(self) -> None:
        """Drop the connection and, by a reset, what the kernel still holds for it."""
        link = self.transport.get_extra_info("socket")
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


class Server(uvicorn.Server):
    """Ends the live streams first: they never end by themselves."""

    def __init__(self, config: uvicorn.Config, streams: StreamHub, url: str) -> None:
        super().__init__(config)
        self._streams = streams
        self._url = url

    def _log_started_message(self, listeners: Sequence[socket.SocketType]) -> None:
        # uvicorn's own names the address it listens on, such as http://0.0.0.0:8000.
        logger.info("serving at %s", self._url)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Called by uvicorn when it shall leave."""
        self._streams.close()
        await super().shutdown(sockets)


def main() -> None:
    """Serves until SIGTERM or SIGINT."""
    settings = Settings()
    logs.configure(settings.log_format, "api")
    make_files_private()
    keep_private(settings)
    _open_many_files()
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=Connection,
        server_header=False,
        log_config=None,
        access_log=False,  # `app.middleware` writes a line with more in it
        timeout_graceful_shutdown=2,
    )
    server = Server(config, app.state.context.streams, settings.public_url or settings.local_url)
    # uvicorn shuts down and then raises the signal again: that was an orderly end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        sys.exit(1)


def _open_many_files() -> None:
    """A live stream is an open file; the usual soft limit of 1,024 would be reached first."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    main()
