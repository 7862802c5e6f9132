"""What the clients of one run's stream share: bounded, in order, without gap or double."""

import asyncio
from collections.abc import Callable

import pytest

from app.db import Database, new_id
from app.runs.live import history as pages_module
from app.runs.live.fanout import (
    CHUNK_BYTES,
    WINDOW,
    WINDOW_BYTES,
    Channel,
    Message,
    Snapshot,
    concat,
)
from app.runs.live.history import PAGE, Pages
from app.runs.live.sse import encode
from app.runs.models import LogLine, Run
from app.runs.states import RunState
from kdcore.config import TeacherConfig
from tests.app.conftest import Api


def messages(first: int, last: int, size_bytes: int = 10) -> list[Message]:
    return [(seq, b"%d;" % seq + b"x" * size_bytes) for seq in range(first, last + 1)]


def look(start: int, last: int, version: int = 1, size_bytes: int = 10) -> Snapshot:
    """Of a run whose events after `start` were read."""
    found = messages(start + 1, last, size_bytes)
    return Snapshot(version, RunState.RUNNING, last, b"detail", found, start)


def test_events_come_in_chunks_without_gap_or_double() -> None:
    channel = Channel()
    assert channel.apply(look(0, 900, size_bytes=500))
    seq, got = 0, b""
    while seq < channel.last_seq:
        answer = channel.after(seq)
        assert answer is not None
        chunk, seq = answer
        assert len(chunk) < CHUNK_BYTES + 600
        got += chunk
    assert got == b"".join(event for _, event in messages(1, 900, 500))
    assert channel.after(900) == (b"", 900)
    assert not channel.apply(look(900, 900))


@pytest.mark.parametrize("size_bytes", [10, 20_000])
def test_the_window_forgets_what_is_old(size_bytes: int) -> None:
    channel = Channel()
    for start in range(0, 3000, 100):
        channel.apply(look(start, start + 100, version=start, size_bytes=size_bytes))
    reach = next(seq for seq in range(3000) if channel.after(seq) is not None)
    assert reach >= 3000 - WINDOW
    assert (3000 - reach) * size_bytes <= WINDOW_BYTES
    chunk, _ = channel.after(reach) or (b"", 0)
    assert chunk.startswith(b"%d;" % (reach + 1))


def test_after_a_long_gap_the_window_restarts() -> None:
    channel = Channel()
    channel.apply(look(0, 10))
    channel.apply(look(5000, 6000, version=2))
    assert channel.after(10) is None
    assert channel.after(5998) == (b"5999;xxxxxxxxxx6000;xxxxxxxxxx", 6000)


def test_one_event_greater_than_a_chunk_still_comes() -> None:
    assert concat([(7, b"x" * CHUNK_BYTES * 2), (8, b"y")], 9) == (b"x" * CHUNK_BYTES * 2, 7)
    assert concat([], 9) == (b"", 9)


def test_a_change_while_a_client_is_busy_is_delivered() -> None:
    async def scene() -> None:
        channel = Channel()
        changes = [channel.next_change() for _ in range(120)]
        channel.forget(changes[0])
        await channel.wake()
        assert [change.done() for change in changes] == [False] + [True] * 119
        later = channel.next_change()
        assert not later.done()
        channel.wake_at_once()
        assert later.done()

    asyncio.run(scene())


def test_a_crowd_reads_each_page_once(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id, lines = new_id(), 3 * PAGE + 7
    config = TeacherConfig().model_dump(mode="json")
    with database.write() as session:
        session.add(Run(id=run_id, name="x", kind="teacher", state="running", config=config))
        session.flush()
        for seq in range(1, lines + 1):
            line = LogLine(run_id=run_id, seq=seq, attempt=1, level="info", message=f"line {seq}")
            line.time = session.get_one(Run, run_id).created_at
            session.add(line)
    reads: list[tuple[int, int]] = []
    real = pages_module.read_messages

    def counted(session: object, run: str, after: int, upto: int) -> list[Message]:
        reads.append((after, upto))
        return real(session, run, after, upto)

    monkeypatch.setattr(pages_module, "read_messages", counted)

    async def read_all(pages: Pages, seq: int) -> bytes:
        got = b""
        while seq < lines:
            chunk, seq = await pages.after(run_id, seq, lines)
            got += chunk
        return got

    async def crowd() -> list[bytes]:
        pages = Pages(database)
        leaver = asyncio.create_task(read_all(pages, 0))
        await asyncio.sleep(0)
        leaver.cancel()
        return await asyncio.gather(*(read_all(pages, seq) for seq in (0, 0, 0, 5, PAGE + 1)))

    got = asyncio.run(crowd())
    assert got[0] == got[1] == got[2]
    assert got[0].count(b"event: log") == lines
    assert got[0].endswith(got[3])
    assert got[3].count(b"event: log") == lines - 5
    assert got[4].count(b"event: log") == lines - PAGE - 1
    assert sorted(reads) == [(i * PAGE, min((i + 1) * PAGE, lines)) for i in range(4)]


def test_beyond_the_limit_a_stream_is_refused_for_a_while(make_api: Callable[..., Api]) -> None:
    api = make_api(max_streams=0)
    response = api.get(f"/runs/{api.add_run()}/events")
    assert response.status_code == 503
    assert response.headers["retry-after"] == "30"
    assert "limit of 0 live streams" in response.json()["detail"]
    assert api.context.streams.refused == 1


def test_an_event_as_the_standard_writes_it() -> None:
    assert encode("log", '{"a": 1}', 5) == b'event: log\ndata: {"a": 1}\nid: 5\n\n'
    assert encode("end", "{}") == b"event: end\ndata: {}\n\n"
