"""Hostile uploads: endless, packed, binary, malformed; refused with a message, within a budget."""

import gzip
import io
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import select as sql_select

from app.datasets.inspection import MEMORY_BYTES
from app.datasets.models import Dataset
from faults.figures import Figure, Row
from faults.installation import Installation, installation
from faults.trial import Trial

MIB = 2**20
GIB = 2**30
API_RSS_MIB = 256 + MEMORY_BYTES / MIB + 128
"""The API itself, and one file's reader at its limit, with the code that it loads."""
SLACK_MIB = 2.0
PIECE = b"x" * (64 * 1024)
BOUNDARY = "halflayer"

Refusals = tuple[int, ...]
Body = Iterable[bytes]


@dataclass(frozen=True)
class Attack:
    """One request and the answers that would be right."""

    name: str
    expected: Refusals
    body: Callable[[], Body]
    headers: dict[str, str]
    path: str = "/api/v1/datasets"


@dataclass(frozen=True)
class Answer:
    status: int
    message: str


class Meter:
    """The most memory that a process and its children had, and the most disk under a folder."""

    def __init__(self, pid: int, folder: Path) -> None:
        self._process, self._folder = psutil.Process(pid), folder
        self.memory_mib = self.disk_mib = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.memory_mib = max(self.memory_mib, self._memory_mib())
            self.disk_mib = max(self.disk_mib, disk_mib(self._folder))

    def _memory_mib(self) -> float:
        total = 0
        with suppress(psutil.Error):
            for process in (self._process, *self._process.children(recursive=True)):
                with suppress(psutil.Error):
                    memory = process.memory_info()
                    # Pages of mapped files are released as soon as memory is needed.
                    total += memory.rss - getattr(memory, "shared", 0)
        return total / MIB

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def disk_mib(folder: Path) -> float:
    """What the files below `folder` take."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += 512 * path.stat().st_blocks
    return total / MIB


@contextmanager
def metered(stand: Installation) -> Iterator[Meter]:
    meter = Meter(stand.api.process.pid, stand.settings.uploads_dir)
    try:
        yield meter
    finally:
        meter.stop()


# -------------------------------------------------------------------------------------- sending


def send(stand: Installation, attack: Attack) -> Answer:
    """Send until the server answers or hangs up, as no polite client would."""
    head = [
        f"POST {attack.path} HTTP/1.1",
        f"Host: 127.0.0.1:{stand.port}",
        f"Authorization: Bearer {stand.token}",
        *(f"{name}: {value}" for name, value in attack.headers.items()),
    ]
    with socket.create_connection(("127.0.0.1", stand.port), timeout=600) as connection:
        connection.sendall("\r\n".join([*head, "", ""]).encode())
        with suppress(BrokenPipeError, ConnectionResetError):
            for piece in attack.body():
                if select.select([connection], [], [], 0)[0]:
                    break
                connection.sendall(piece)
        received = b""
        with suppress(ConnectionResetError):
            while data := connection.recv(1 << 16):
                received += data
                if _is_whole(received):
                    break
    status = received.split(b" ", 2)[1:2]
    return Answer(
        int(status[0]) if status else 0, received.partition(b"\r\n\r\n")[2].decode(errors="replace")
    )


def _is_whole(received: bytes) -> bool:
    head, ended, body = received.partition(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if ended and line.startswith(b"content-length:"):
            return len(body) >= int(line.split(b":")[1])
    return False


def chunked(body: Body) -> Body:
    """The body in HTTP's own chunks."""
    for piece in body:
        if piece:
            yield b"%x\r\n%s\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"


def endless() -> Body:
    """Never stops by itself."""
    while True:
        yield PIECE


def part(name: str, filename: str | None = None) -> bytes:
    named = f'; filename="{filename}"' if filename is not None else ""
    return f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'.encode()


def form(filename: str, content: Body, kind: str = "text") -> Body:
    """A multipart form with one file."""
    yield part("kind") + kind.encode() + b"\r\n"
    yield part("file", filename)
    yield from content
    yield f"\r\n--{BOUNDARY}--\r\n".encode()


MULTIPART = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
CHUNKED = {"Transfer-Encoding": "chunked"}


def file_attack(
    name: str, expected: int | Refusals, filename: str, content: Callable[[], Body], kind: str = ""
) -> Attack:
    """An upload of one file, in chunks."""
    return Attack(
        name,
        (expected,) if isinstance(expected, int) else expected,
        lambda: chunked(form(filename, content(), kind or "text")),
        MULTIPART | CHUNKED,
    )


# -------------------------------------------------------------------------------------- attacks


def _repeated(piece: bytes, size: int) -> Callable[[], Body]:
    """`piece` again and again, `size` bytes in all; held once."""

    def body() -> Body:
        block = piece * max(1, len(PIECE) // len(piece))
        for _ in range(size // len(block)):
            yield block

    return body


def _parquet(batches: Iterable[pa.Table], schema: pa.Schema, **options: bool) -> bytes:
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, schema, compression="zstd", **options) as writer:
        for batch in batches:
            writer.write_table(batch)
    return sink.getvalue()


def text_bomb(rows: int) -> bytes:
    """One long text, `rows` times over: a dictionary of one entry, and a run of zeros."""
    text = pa.DictionaryArray.from_arrays(
        pa.array([0] * rows, pa.int32()), pa.array(["la " * (MIB // 3)])
    )
    table = pa.table({"text": text})
    return _parquet([table], table.schema)


def row_bomb(groups: int) -> bytes:
    """A million empty rows in each group; a group takes a few hundred bytes."""
    table = pa.table({"text": pa.nulls(MIB, pa.string())})
    return _parquet((table for _ in range(groups)), table.schema)


def page_bomb(size: int) -> bytes:
    """One page that unpacks to `size` bytes, under a footer that claims a small one."""
    table = pa.table({"text": pa.array([b"a" * size]).cast(pa.large_string())})
    # Neither a dictionary nor statistics: each would hold the long value once more.
    data = _parquet([table], table.schema, use_dictionary=False, write_statistics=False)
    footer_size = int.from_bytes(data[-8:-4], "little")
    body, footer = data[: -8 - footer_size], data[-8 - footer_size : -8]
    column = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0).column(0)
    true_size = _varint(column.total_uncompressed_size)
    assert footer.count(true_size), "the footer keeps its sizes elsewhere"
    small = bytearray(_varint(4096))
    small[-1] |= 0x80
    small += b"\x80" * (len(true_size) - len(small) - 1) + b"\x00"
    return body + footer.replace(true_size, bytes(small)) + data[-8:]


def _varint(value: int) -> bytes:
    """As Thrift's compact protocol writes a signed number."""
    value, found = value << 1, bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def vocabulary_bomb(size: int) -> Callable[[], Body]:
    """Very many very short entries, each of which becomes an object."""

    def body() -> Body:
        number = 0
        while size > number * 7:
            yield b"".join(b"%06x\n" % each for each in range(number, number + 8192))
            number += 8192

    return body


def json_bomb(size: int) -> Callable[[], Body]:
    """A tokenizer.json whose vocabulary is a list of little lists."""

    def body() -> Body:
        yield b'{"version":"1.0","model":{"type":"WordPiece","vocab":[[]'
        yield from _repeated(b",[]", size)()
        yield b"]}}"

    return body


def attacks(limit: int, *, long: bool) -> Iterator[Attack]:
    """Every attack on a server that takes uploads of `limit` bytes."""
    whole = limit - MIB // 2
    """Of a file that is not refused for its size alone."""
    tokenizer = min(whole, 63 * MIB)

    def once(data: bytes) -> Callable[[], Body]:
        return lambda: [data]

    def declared(size: int) -> dict[str, str]:
        return MULTIPART | {"Content-Length": str(size)}

    yield Attack("10 GB, declared", (413,), lambda: form("a.txt", endless()), declared(10 * 10**9))
    yield file_attack("endless chunked file", 413, "a.txt", endless)
    yield Attack(
        "endless chunked JSON",
        (413,),
        lambda: chunked(endless()),
        {"Content-Type": "application/json"} | CHUNKED,
        "/api/v1/runs",
    )
    yield Attack(
        "endless part header",
        (400,),
        lambda: chunked([f"--{BOUNDARY}\r\n".encode(), *[PIECE] * 64]),
        MULTIPART | CHUNKED,
    )
    yield Attack(
        "a thousand parts",
        (400,),
        lambda: chunked(part(f"n{number}") + b"x\r\n" for number in range(1000)),
        MULTIPART | CHUNKED,
    )
    packed = gzip.compress(b"".join(form("a.txt", [b"la la\n" * MIB])))
    yield Attack(
        "Content-Encoding: gzip",
        (415,),
        lambda: [packed],
        declared(len(packed)) | {"Content-Encoding": "gzip"},
    )
    yield file_attack("gzip named .jsonl", (415, 422), "a.jsonl", once(packed))
    yield file_attack("gzip named .parquet", 422, "a.parquet", once(packed))
    yield file_attack("a.jsonl.gz", 415, "a.jsonl.gz", once(packed))
    yield file_attack("Parquet, a million long texts", 422, "a.parquet", once(text_bomb(MIB)))
    groups = 1000 if long else 16
    yield file_attack("Parquet, rows without end", 422, "a.parquet", once(row_bomb(groups)))
    page = MEMORY_BYTES + 32 * MIB if long else 80 * MIB
    yield file_attack("Parquet, a forged page", 422, "a.parquet", once(page_bomb(page)))
    yield file_attack("binary named .txt", 415, "a.txt", once(bytes(range(256)) * 64))
    yield file_attack("NUL at the end", (415, 422), "a.txt", lambda: [b"la\n" * MIB, b"\0"])
    yield file_attack("pickle named .jsonl", 415, "a.jsonl", once(b"\x80\x04\x95\0\0\0.pos"))
    yield file_attack("one line, .txt", 201, "a.txt", _repeated(b"la", whole))
    yield file_attack("one line, .jsonl", 422, "a.jsonl", _repeated(b"[", whole))
    yield file_attack("one line, .csv", 422, "a.csv", _repeated(b'"a', whole))
    yield file_attack("bad UTF-8", 422, "a.txt", lambda: [b"la\n" * MIB, b"\xff\xfe la\n"])
    yield file_attack("bad UTF-8, .csv", 422, "a.csv", once(b"text\nla\n\xc3\x28\n"))
    yield file_attack("empty", 422, "a.txt", once(b""))
    yield file_attack("empty Parquet", 422, "a.parquet", once(b""))
    yield file_attack("blank lines only", 422, "a.txt", _repeated(b"\n", MIB))
    yield file_attack(
        "vocabulary of millions", 422, "vocab.txt", vocabulary_bomb(tokenizer), "tokenizer"
    )
    yield file_attack(
        "tokenizer.json of millions", 422, "tokenizer.json", json_bomb(tokenizer), "tokenizer"
    )
    yield file_attack(
        "tokenizer.json, deep", 422, "tokenizer.json", _repeated(b"[", tokenizer), "tokenizer"
    )


def uploads(trial: Trial) -> Iterator[Row]:
    """All attacks, one after the other."""
    limit = 2 * GIB if trial.long else 16 * MIB
    folder = trial.new_folder("uploads")
    with installation(folder, workers=0, HALFLAYER_MAX_UPLOAD_BYTES=str(limit)) as stand:
        wrong: list[str] = []
        slowest_s, times, worst = 0.0, 0, ""
        with metered(stand) as meter:
            for attack in attacks(limit, long=trial.long):
                trial.say(f"uploads: {attack.name}")
                before_mib, started_s = meter.memory_mib, time.monotonic()
                answer = send(stand, attack)
                times += 1
                slowest_s = max(slowest_s, time.monotonic() - started_s)
                if meter.memory_mib > before_mib:
                    worst = attack.name
                if answer.status not in attack.expected or len(answer.message) < 20:
                    wrong.append(f"{attack.name}: {answer.status} {answer.message[:200]}")
                _forget_what_was_taken(stand)
        left = [path for path in stand.settings.uploads_dir.rglob("*") if path.is_file()]
        alive = stand.api.alive and stand.is_ready()
    facts: dict[str, object] = {"slowest_s": round(slowest_s, 1), "worst": worst}
    if wrong:
        facts["first"] = "; ".join(wrong[:3]).replace("|", "/")
    yield Row(
        f"hostile uploads, limit {limit // MIB:,} MiB: 10 GB, endless, bombs, binary, one line, "
        "bad UTF-8, empty",
        times,
        "413, 415, 422 or 400 with a message",
        [
            Figure("wrongly_answered", len(wrong)),
            Figure("api_rss_mib", round(meter.memory_mib, 1), API_RSS_MIB),
            Figure("upload_disk_mib", round(meter.disk_mib, 1), limit / MIB + SLACK_MIB),
            Figure("files_left", len(left)),
            Figure("api_deaths", int(not alive)),
        ],
        facts,
    )


def _forget_what_was_taken(stand: Installation) -> None:
    """Delete what was rightly accepted, over REST as its owner would."""
    with stand.db.read() as session:
        ids = list(session.scalars(sql_select(Dataset.id)))
    for dataset_id in ids:
        stand.http.delete(f"/datasets/{dataset_id}").raise_for_status()
