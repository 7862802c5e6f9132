"""What the hub does in rare cases: clients that change during a poll, errors, numbers unused."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from app.auth.service import create_token, live_ids
from app.db import Database, new_id
from app.runs.live import hub as hub_module
from app.runs.live.fanout import Snapshot
from app.runs.live.hub import StreamHub
from app.runs.models import MetricPoint, Run
from app.runs.states import RunState
from app.runs.views import run_detail
from app.settings import Settings
from kdcore.config import TeacherConfig

Read = Callable[..., tuple[dict[str, Snapshot | None], set[str]]]


@pytest.fixture
def db(sqlite_url: str) -> Iterator[Database]:
    database = Database(sqlite_url)
    yield database
    database.close()


@pytest.fixture
def token_id(db: Database) -> str:
    with db.write() as session:
        return create_token(session, "api", "test", "read", None)[0].id


@pytest.fixture
def hub(
    db: Database, sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> StreamHub:
    monkeypatch.setattr(hub_module, "POLL_S", 0.02)
    return StreamHub(db, Settings(data_dir=tmp_path, database_url=sqlite_url))


def add_run(db: Database, **values: Any) -> str:
    fixed = {"id": new_id(), "name": "live", "kind": "teacher", "state": RunState.RUNNING}
    config = TeacherConfig().model_dump(mode="json")
    with db.write() as session:
        run = Run(**fixed | {"config": config} | values)
        session.add(run)
    return run.id


def play(hub: StreamHub, scene: Coroutine[Any, Any, None]) -> None:
    async def whole() -> None:
        await hub.start()
        try:
            await asyncio.wait_for(scene, 10)
        finally:
            await hub.stop()

    asyncio.run(whole())


async def news(stream: AsyncGenerator[bytes, None]) -> bytes:
    return await asyncio.wait_for(anext(stream), 3)


def test_a_client_that_follows_another_during_a_poll_gets_the_run(
    hub: StreamHub, db: Database, token_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = add_run(db)
    read: Read = hub._read
    hold, held, release = threading.Event(), threading.Event(), threading.Event()

    def slow(known: dict[str, tuple[int, int]], credentials: set[str]) -> Any:
        found = read(known, credentials)
        if hold.is_set() and not held.is_set():
            held.set()
            release.wait(5)
        return found

    monkeypatch.setattr(hub, "_read", slow)

    async def scene() -> None:
        first = hub._events(run_id, 0, token_id)
        assert b"event: run" in await news(first)
        hold.set()
        await asyncio.to_thread(held.wait, 5)
        await first.aclose()
        second = hub._events(run_id, 0, token_id)
        coming = asyncio.create_task(news(second))
        await asyncio.sleep(0.05)
        release.set()
        try:
            assert b"event: run" in await coming
        finally:
            await second.aclose()

    play(hub, scene())


def test_a_run_that_cannot_be_read_stops_no_other_stream(
    hub: StreamHub,
    db: Database,
    token_id: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bad, good = add_run(db, name="bad"), add_run(db, name="good")
    broken = True

    def detail(session: Session, run: Run) -> Any:
        if run.id == bad and broken:
            raise ValueError("an unknown state")
        return run_detail(session, run)

    monkeypatch.setattr(hub_module, "run_detail", detail)

    async def scene() -> None:
        nonlocal broken
        of_bad, of_good = (hub._events(run_id, 0, token_id) for run_id in (bad, good))
        coming = asyncio.create_task(news(of_bad))
        assert b"event: run" in await news(of_good)
        await asyncio.sleep(0.1)
        assert not coming.done()
        broken = False
        assert b"event: run" in await coming
        await of_bad.aclose()
        await of_good.aclose()

    play(hub, scene())
    assert f"stream of run {bad}: cannot read it" in caplog.text
    assert "ValueError: an unknown state" in caplog.text


def test_the_poller_goes_on_after_an_unexpected_error(
    hub: StreamHub,
    db: Database,
    token_id: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run_id = add_run(db)
    failures = [ValueError("odd row")]

    def ids(session: Session, credentials: set[str]) -> set[str]:
        if failures:
            raise failures.pop()
        return live_ids(session, credentials)

    monkeypatch.setattr(hub_module, "live_ids", ids)

    async def scene() -> None:
        stream = hub._events(run_id, 0, token_id)
        assert b"event: run" in await news(stream)
        await stream.aclose()

    play(hub, scene())
    assert "ValueError: odd row" in caplog.text


def test_a_finished_stream_ends_at_once_although_its_last_number_has_no_event(
    hub: StreamHub, db: Database, token_id: str
) -> None:
    run_id = add_run(db, event_seq=1)
    with db.write() as session:
        session.add(MetricPoint(run_id=run_id, seq=1, name="loss", attempt=1, step=1, value=1.0))

    async def scene() -> None:
        stream = hub._events(run_id, 0, token_id)
        first = await news(stream)
        assert b"event: run" in first
        assert b"event: metrics" in first
        with db.write() as session:
            ended = {"state": RunState.SUCCEEDED, "event_seq": 2, "version": Run.version + 1}
            session.execute(update(Run).where(Run.id == run_id).values(**ended))
        assert b"event: end" in await news(stream)
        await stream.aclose()

    play(hub, scene())
