"""Many connections that all send the same bytes, in a process of their own: `python -m ...flood`.

Takes one JSON object on stdin, and prints one once the time is over or all have been answered:

    {"port": 8000, "connections": 600, "head": "POST ...", "fill_bytes": 1990000, "within_s": 3,
     "again_s": 5, "for_s": 15}    -> {"401": 1200, "held": 0, "no_retry_after": 0, ...}

`fill_bytes` spaces follow the head. The connections begin one after the other `within_s`; one that
has ended is made again after `again_s`, unless that is null. `held` are those that the server still
lets wait at the end.
"""

import asyncio
import json
import resource
import socket
import sys
from collections import Counter
from contextlib import suppress


async def main() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    options = json.loads(sys.stdin.read())
    data = options["head"].encode() + b" " * options["fill_bytes"]
    loop = asyncio.get_running_loop()
    end_s = loop.time() + options["for_s"]
    counts: Counter[str] = Counter(held=0, no_retry_after=0)

    async def keep_sending(begin_s: float) -> None:
        await asyncio.sleep(begin_s)
        while True:
            answer = await _answer(options["port"], data, end_s)
            status = answer[9:12].decode() if answer.startswith(b"HTTP/1.1 ") else "closed"
            counts["held" if answer == b"held" else status] += 1
            counts["no_retry_after"] += status == "503" and b"\r\nretry-after: " not in answer
            if options["again_s"] is None or loop.time() + options["again_s"] >= end_s:
                return
            await asyncio.sleep(options["again_s"])

    gap_s = options["within_s"] / options["connections"]
    await asyncio.gather(*(keep_sending(gap_s * i) for i in range(options["connections"])))
    print(json.dumps(counts))


async def _answer(port: int, data: bytes, end_s: float) -> bytes:
    """The beginning of the answer, b"held" for none by the end, or b"" for a closed connection."""
    loop = asyncio.get_running_loop()
    with socket.socket() as link:
        link.setblocking(False)
        try:
            async with asyncio.timeout_at(end_s):
                await loop.sock_connect(link, ("127.0.0.1", port))
                with suppress(OSError):  # the server may have answered before it hung up
                    await loop.sock_sendall(link, data)
                return await loop.sock_recv(link, 1 << 14)
        except TimeoutError:
            return b"held"
        except OSError:
            return b""


if __name__ == "__main__":
    asyncio.run(main())
