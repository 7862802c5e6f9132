"""Thousands of readers of one run's live stream, in a process of their own.

Bare sockets, for the readers must cost less than what they measure. Takes one JSON object a line
on stdin, answers each with one on stdout:

    {"do": "join", "readers": 200}     -> {"served": 190, "refused": 10, "other": []}
    {"do": "join_slow", "readers": 10} -> the same; each then takes one byte a second
    {"do": "tell"}                     -> {"gaps": 0, "duplicates": 0, "ended": 0, ...}
"""

import asyncio
import json
import re
import resource
import socket
import sys
from collections import Counter
from typing import Any

AT_ONCE = 100
ANSWER_S = 120.0
EVENT_ID = re.compile(rb"(?:^|\n)id: (\d+)\n")
SLOW_BUFFER_BYTES = 2048
ETHERNET_SEGMENT_BYTES = 1460
"""Loopback's segments of 64 KiB would have the kernel take megabytes for each slow reader."""


class Reader(asyncio.Protocol):
    """Follows a stream and counts what is missing and what came twice."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.status = 0
        self.retry_after = False
        self.last_id = self.gaps = self.duplicates = 0
        self.ended = False
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        if not self.status:
            head, found, data = data.partition(b"\r\n\r\n")
            if not found:
                self._rest = head
                return
            self.status = int(head.split()[1])
            self.retry_after = b"\r\nretry-after: " in head.lower()
            self.answered.set_result(None)
        whole, found, self._rest = data.rpartition(b"\n\n")
        for each in EVENT_ID.findall(whole + found):
            number = int(each)
            self.gaps += max(0, number - self.last_id - 1)
            self.duplicates += number <= self.last_id
            self.last_id = max(number, self.last_id)
        self.ended = self.ended or b"event: end\n" in whole

    def connection_lost(self, error: Exception | None) -> None:
        if not self.answered.done():
            self.answered.set_result(None)


class Crowd:
    """All readers."""

    def __init__(self, port: int, path: str, token: str) -> None:
        self._address = ("127.0.0.1", port)
        self._request = (
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n\r\n"
        ).encode()
        self._gate = asyncio.Semaphore(AT_ONCE)
        self.readers: list[Reader] = []
        self._slow: dict[int, asyncio.Task[None]] = {}
        """By their local ports."""

    async def join(self, readers: int) -> dict[str, Any]:
        """So many more; returns once each has its answer."""
        return _summary(await asyncio.gather(*(self._join_one() for _ in range(readers))))

    async def _join_one(self) -> tuple[int, bool]:
        async with self._gate:
            loop = asyncio.get_running_loop()
            _, reader = await loop.create_connection(lambda: Reader(self._request), *self._address)
            await asyncio.wait([reader.answered], timeout=ANSWER_S)
        if reader.status == 200:
            self.readers.append(reader)
        return reader.status, reader.retry_after

    async def join_slow(self, readers: int) -> dict[str, Any]:
        """So many that read their answer's first line, and then a byte a second."""
        return _summary(await asyncio.gather(*(self._join_one_slow() for _ in range(readers))))

    async def _join_one_slow(self) -> tuple[int, bool]:
        loop = asyncio.get_running_loop()
        link = socket.socket()
        link.setblocking(False)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_BUFFER_BYTES)
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, ETHERNET_SEGMENT_BYTES)
        async with self._gate:
            await loop.sock_connect(link, self._address)
            await loop.sock_sendall(link, self._request)
            head = await asyncio.wait_for(loop.sock_recv(link, 12), ANSWER_S)
        self._slow[link.getsockname()[1]] = asyncio.create_task(_crawl(link))
        return int(head.split()[1]), True

    def tell(self) -> dict[str, Any]:
        """What has come so far, over all readers that were served."""
        return {
            "gaps": sum(reader.gaps for reader in self.readers),
            "duplicates": sum(reader.duplicates for reader in self.readers),
            "ended": sum(reader.ended for reader in self.readers),
            "last_ids": sorted({reader.last_id for reader in self.readers})[:5],
            "slow_ports": list(self._slow),
        }


async def _crawl(link: socket.socket) -> None:
    """One byte a second until the server has enough of it."""
    with link:
        while True:
            try:
                if not await asyncio.get_running_loop().sock_recv(link, 1):
                    return
            except OSError:
                return
            await asyncio.sleep(1)


def _summary(answers: list[tuple[int, bool]]) -> dict[str, Any]:
    counted = Counter(answers)
    refused = counted.pop((503, True), 0)
    served = sum(counted.pop((200, each), 0) for each in (True, False))
    other = sorted({status for status, _ in counted})
    return {"served": served, "refused": refused, "others": counted.total(), "other": other}


async def main() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    crowd = Crowd(**json.loads(await reader.readline()))
    while line := await reader.readline():
        command = json.loads(line)
        match command["do"]:
            case "join":
                answer = await crowd.join(command["readers"])
            case "join_slow":
                answer = await crowd.join_slow(command["readers"])
            case _:
                answer = crowd.tell()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
