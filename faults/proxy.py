"""A TCP proxy that can cut, delay and swallow what passes; knows no protocol."""

import asyncio
import socket
import threading
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

Mode = Literal["pass", "cut", "blackhole", "unanswered"]
_CHUNK_BYTES = 1 << 16


class Proxy:
    """Listens on a loopback port; forwards to a TCP address or to a Unix socket."""

    def __init__(self, target: tuple[str, int] | Path) -> None:
        self._target = target
        self._mode: Mode = "pass"
        self._open = asyncio.Event()
        self._open.set()
        self._answers = asyncio.Event()
        self._answers.set()
        self.delay_s = 0.0
        """Held back for so long in each direction."""
        self.connections = 0
        """Accepted so far, refused ones included."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._do(self._listen())

    def set(self, mode: Mode) -> None:
        """`cut` closes all connections and each new one; `blackhole` lets nothing through.

        `unanswered` lets through what clients send, and holds back what they are answered.
        """
        self._do(self._set(mode))

    def cut_once(self) -> None:
        """Close all connections; new ones are welcome."""
        self._do(self._cut())

    def close(self) -> None:
        """Stop listening and drop all connections."""
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, sock=self._socket)

    async def _set(self, mode: Mode) -> None:
        self._mode = mode
        for gate, closed in (
            (self._open, mode == "blackhole"),
            (self._answers, mode == "unanswered"),
        ):
            if closed:
                gate.clear()
            else:
                gate.set()
        if mode == "cut":
            await self._cut()

    async def _cut(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _end(self) -> None:
        self._server.close()
        await self._cut()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        ours = [writer]
        try:
            if self._mode == "cut":
                return
            await self._open.wait()
            there = await self._connect()
            ours.append(there[1])
            async with asyncio.TaskGroup() as both:
                both.create_task(self._forward(reader, there[1], self._open))
                both.create_task(self._forward(there[0], writer, self._answers))
        except* (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            for each in ours:
                # A reset, as of a crashed host: no orderly close to wait for.
                with suppress(Exception):
                    each.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._target, Path):
            return await asyncio.open_unix_connection(str(self._target))
        return await asyncio.open_connection(*self._target)

    async def _forward(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, gate: asyncio.Event
    ) -> None:
        while data := await source.read(_CHUNK_BYTES):
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            await self._open.wait()
            await gate.wait()
            sink.write(data)
            await sink.drain()
        raise ConnectionResetError
