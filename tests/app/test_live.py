"""What only a real server shows: live streams, endless bodies, and a clean end."""

import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import update

from app.db import Database
from app.ids import new_id
from app.runs.models import LogLine, MetricPoint, Run
from app.runs.states import RunState
from app.settings import Settings
from kdcore.config import TeacherConfig
from tests.fixtures.served import serving


@dataclass
class Live:
    """A server in its own process."""

    process: subprocess.Popen[bytes]
    client: httpx.Client
    db: Database

    def add_run(self, **values: Any) -> str:
        run_id = new_id()
        config = TeacherConfig().model_dump(mode="json")
        fixed = {"id": run_id, "name": "live", "kind": "teacher", "config": config}
        with self.db.write() as session:
            session.add(Run(**fixed | {"state": RunState.RUNNING, "attempt": 1} | values))
        return run_id

    def log(self, run_id: str, first: int, last: int, **changes: Any) -> None:
        """One point with each number from `first` to `last`, and the run's row to match."""
        with self.db.write() as session:
            for seq in range(first, last + 1):
                session.add(
                    MetricPoint(
                        run_id=run_id, seq=seq, name="loss", attempt=1, step=seq, value=1 / seq
                    )
                )
            session.execute(
                update(Run)
                .where(Run.id == run_id)
                .values(event_seq=last, version=Run.version + 1, **changes)
            )


@pytest.fixture
def live(sqlite_settings: Settings, tmp_path: Path) -> Iterator[Live]:
    """The application as it is really served."""
    limits = {
        "HALFLAYER_MAX_BODY_BYTES": "1000000",
        "HALFLAYER_MAX_UPLOAD_BYTES": "3000000",
    }
    with serving(sqlite_settings, tmp_path / "api.log", **limits) as served:
        yield Live(served.process, served.client, served.db)


@contextmanager
def events(live: Live, run_id: str, **headers: str) -> Iterator[Iterator[dict[str, Any]]]:
    """The stream's events, one by one."""
    url = f"/api/v1/runs/{run_id}/events"
    with live.client.stream("GET", url, headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        yield _parse(response.iter_lines())


def _parse(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    event: dict[str, Any] = {}
    for line in lines:
        if line.startswith(":"):
            continue
        if not line:
            if event:
                yield event
            event = {}
            continue
        key, _, value = line.partition(": ")
        event[key] = json.loads(value) if key == "data" else value


def ids(found: list[dict[str, Any]]) -> list[int]:
    return [int(event["id"]) for event in found if "id" in event]


def test_a_stream_brings_the_past_then_the_present_then_ends(live: Live) -> None:
    run_id = live.add_run()
    live.log(run_id, 1, 3)
    with events(live, run_id) as stream:
        assert next(stream)["event"] == "run"
        past = [next(stream) for _ in range(3)]
        assert ids(past) == [1, 2, 3]
        assert past[0]["data"] == {"step": 1, "attempt": 1, "values": {"loss": 1.0}}
        with live.db.write() as session:
            line = LogLine(
                run_id=run_id,
                seq=4,
                attempt=1,
                time=datetime.now(UTC),
                level="info",
                message="<b>words</b>\nof two lines",
            )
            session.add(line)
        live.log(run_id, 5, 6, state=RunState.SUCCEEDED)
        rest = list(stream)
    assert ids(rest) == [4, 5, 6]
    logged = next(event for event in rest if event["event"] == "log")
    assert logged["data"]["message"] == "<b>words</b>\nof two lines"
    assert [event["event"] for event in rest[-2:]] == ["run", "end"]
    assert rest[-2]["data"]["state"] == "succeeded"
    assert rest[-1]["data"] == {"state": "succeeded"}


def test_last_event_id_resumes_without_gap_or_double(live: Live) -> None:
    run_id = live.add_run(state=RunState.SUCCEEDED)
    live.log(run_id, 1, 2500)
    with events(live, run_id) as stream:
        whole = list(stream)
    assert ids(whole) == list(range(1, 2501))
    with events(live, run_id, **{"Last-Event-ID": "1777"}) as stream:
        assert ids(list(stream)) == list(range(1778, 2501))
    with events(live, run_id, **{"Last-Event-ID": "2500"}) as stream:
        assert [event["event"] for event in stream] == ["run", "end"]
    with events(live, run_id, **{"Last-Event-ID": "nonsense"}) as stream:
        assert ids(list(stream)) == list(range(1, 2501))


def test_many_readers_of_one_run_all_get_everything(live: Live) -> None:
    run_id = live.add_run()
    results: list[list[int]] = []

    def read() -> None:
        with events(live, run_id) as stream:
            results.append(ids(list(stream)))

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for first in range(1, 3001, 600):
        live.log(run_id, first, first + 599)
        time.sleep(0.2)
    live.log(run_id, 3001, 3001, state=RunState.CANCELLED)
    for thread in threads:
        thread.join(timeout=60)
    assert results == [list(range(1, 3002))] * 8


def test_a_deleted_run_ends_its_stream(live: Live) -> None:
    run_id = live.add_run()
    with events(live, run_id) as stream:
        next(stream)
        with live.db.write() as session:
            session.delete(session.get(Run, run_id))
        assert [event["data"] for event in stream] == [{"state": None}]


def test_an_unknown_run_has_no_stream(live: Live) -> None:
    assert live.client.get(f"/api/v1/runs/{new_id()}/events").status_code == 404


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_open_streams_do_not_hold_up_the_end(live: Live, number: signal.Signals) -> None:
    with events(live, live.add_run()) as stream:
        next(stream)
        started_s = time.monotonic()
        live.process.send_signal(number)
        live.process.wait(timeout=15)
        assert time.monotonic() - started_s < 8


def test_an_endless_body_is_cut_off_while_it_arrives(live: Live) -> None:
    sent_bytes = 0

    def endless(head: bytes) -> Iterator[bytes]:
        nonlocal sent_bytes
        yield head
        while sent_bytes < 200_000_000:
            sent_bytes += 65536
            yield b"y" * 65536

    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
    for path, content_type, head in (
        ("/api/v1/runs", "application/json", b'{"name": "'),
        ("/api/v1/datasets", "multipart/form-data; boundary=b", part),
    ):
        try:
            response = live.client.post(
                path, content=endless(head), headers={"content-type": content_type}
            )
        except httpx.TransportError:
            continue  # the server hung up before the client could read its answer
        assert response.status_code == 413
        assert response.headers["content-type"] == "application/problem+json"
    assert sent_bytes < 100_000_000
    assert live.client.get("/healthz").status_code == 200


def test_whoever_is_refused_before_the_body_ends_is_hung_up_on(live: Live) -> None:
    """A file just over its limit is refused by the upload itself, within the body's own limit."""
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'

    def body() -> Iterator[bytes]:
        yield part + b"y" * 3_020_000
        time.sleep(1.0)
        yield b"y"

    kind = {"content-type": "multipart/form-data; boundary=b"}
    response = live.client.post("/api/v1/datasets", content=body(), headers=kind)
    assert response.status_code == 413
    assert response.headers["connection"] == "close"
