"""What only a real server shows: live streams, endless bodies, and a clean end."""

import hashlib
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
from sqlalchemy import func, select, update

from app.auth.models import ApiToken
from app.auth.service import create_token
from app.cli.client import Client, Refused
from app.db import Database, new_id
from app.runs.models import Artifact, LogLine, MetricPoint, Run
from app.runs.states import RunState
from app.settings import Settings
from app.storage import Store
from faults.proxy import Proxy
from kdcore.config import TeacherConfig
from tests.fixtures.served import served_settings, serving

pytestmark = pytest.mark.integration


@dataclass
class Live:
    """A server in its own process."""

    process: subprocess.Popen[bytes]
    client: httpx.Client
    db: Database
    settings: Settings

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


@contextmanager
def _live(folder: Path) -> Iterator[Live]:
    """The application as it is really served."""
    limits = {
        "HALFLAYER_MAX_BODY_BYTES": "1000000",
        "HALFLAYER_MAX_UPLOAD_BYTES": "3000000",
    }
    settings = served_settings(folder)
    with serving(settings, folder / "api.log", **limits) as served:
        yield Live(served.process, served.client, served.db, settings)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """One server for all tests that look at their own runs only."""
    with _live(tmp_path_factory.mktemp("live")) as running:
        yield running


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Live]:
    """A server without any request so far."""
    with _live(tmp_path) as running:
        yield running


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
def test_open_streams_do_not_delay_the_shutdown(fresh: Live, number: signal.Signals) -> None:
    with events(fresh, fresh.add_run()) as stream:
        next(stream)
        started_s = time.monotonic()
        fresh.process.send_signal(number)
        fresh.process.wait(timeout=15)
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


def test_a_request_refused_before_its_body_ends_is_disconnected(live: Live) -> None:
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


# ---------------------------------------------------------------------------------------- HEAD

WEIGHTS = bytes(range(256)) * 20_000
ETAG = f'"{hashlib.sha256(WEIGHTS).hexdigest()}"'


def publish(live: Live, tmp_path: Path) -> str:
    """A run that succeeded with one file of 5 MB."""
    run_id = live.add_run(state=RunState.SUCCEEDED)
    (tmp_path / "weights").write_bytes(WEIGHTS)
    key = f"{run_id}/1/model.safetensors"
    Store(live.settings).put_file(tmp_path / "weights", key)
    with live.db.write() as session:
        session.add(
            Artifact(
                run_id=run_id,
                path="model.safetensors",
                attempt=1,
                size_bytes=len(WEIGHTS),
                sha256=ETAG.strip('"'),
                storage_key=key,
            )
        )
    return run_id


def same_but_for_the_body(live: Live, path: str, headers: dict[str, str]) -> httpx.Response:
    """The answer to HEAD, which is that to GET without its body."""
    varying = {"date", "x-request-id"}
    with live.client.stream("GET", path, headers=headers) as got:
        pass
    head = live.client.head(path, headers=headers)
    assert head.status_code == got.status_code, path
    assert head.content == b""
    for name in (head.headers.keys() | got.headers.keys()) - varying:
        assert head.headers.get(name) == got.headers.get(name), (path, name)
    return head


def test_head_is_get_without_the_body_on_every_path(live: Live, tmp_path: Path) -> None:
    run_id = publish(live, tmp_path)
    asked = 0
    for path, methods in live.client.get("/api/v1/openapi.json").json()["paths"].items():
        assert "head" not in methods
        if "get" in methods and path != "/metrics":  # its figures change with each request
            filled = path.format_map(
                {"run_id": run_id, "path": "model.safetensors", "kind": "teacher"}
                | {"dataset_id": new_id()}
            )
            same_but_for_the_body(live, filled, {})
            asked += 1
    assert asked >= 18
    assert live.client.head("/metrics").status_code == 200
    assert live.client.head("/api/v1/openapi.json").status_code == 200
    assert live.client.head("/api/v1/nothing").status_code == 404
    assert live.client.head(f"/api/v1/runs/{run_id}/cancel").status_code == 405
    assert live.client.head("/api/v1/runs", headers={"authorization": "x"}).status_code == 401


def test_head_tells_what_a_download_would_bring(live: Live, tmp_path: Path) -> None:
    path = f"/api/v1/runs/{publish(live, tmp_path)}/artifacts/model.safetensors"
    for headers, status, length in (
        ({}, 200, len(WEIGHTS)),
        ({"range": "bytes=5-9"}, 206, 5),
        ({"range": f"bytes={len(WEIGHTS)}-"}, 416, None),
        ({"if-none-match": ETAG}, 304, None),
        ({"range": "bytes=5-9", "if-range": '"other"'}, 200, len(WEIGHTS)),
    ):
        head = same_but_for_the_body(live, path, headers)
        assert head.status_code == status, headers
        if length is not None:
            assert head.headers["content-length"] == str(length)
            assert head.headers["accept-ranges"] == "bytes"


def test_head_of_a_live_stream_ends_and_takes_no_place(fresh: Live) -> None:
    path = f"/api/v1/runs/{fresh.add_run()}/events"
    for _ in range(20):
        head = fresh.client.head(path)
        assert head.status_code == 200
        assert head.headers["content-type"].startswith("text/event-stream")
    figures = fresh.client.get("/metrics").text
    assert "halflayer_streams 0.0" in figures
    assert 'method="HEAD",route="stream_events"' in figures


# --------------------------------------------------------------------------- cut connections

TEACHER = TeacherConfig().model_dump(mode="json")


def rows(live: Live, table: type[Run] | type[ApiToken]) -> int:
    with live.db.read() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


@contextmanager
def cut_before_the_answer(live: Live, table: type[Run] | type[ApiToken]) -> Iterator[Client]:
    """The command line's client; its first request is carried out and its connection cut then."""
    with live.db.write() as session:
        secret = create_token(session, "api", "cut", "admin")[1]
    before = rows(live, table)
    proxy = Proxy(("127.0.0.1", live.client.base_url.port or 0))
    proxy.set("unanswered")

    def cut() -> None:
        while rows(live, table) == before:
            time.sleep(0.02)
        proxy.cut_once()
        proxy.set("pass")

    cutter = threading.Thread(target=cut, daemon=True)
    cutter.start()
    try:
        with Client(f"http://127.0.0.1:{proxy.port}", secret) as client:
            yield client
        assert proxy.connections == 2
    finally:
        cutter.join(timeout=30)
        proxy.close()


@pytest.mark.timeout(60)
def test_a_submit_whose_answer_is_lost_makes_one_run(fresh: Live) -> None:
    with cut_before_the_answer(fresh, Run) as client:
        run = client.submit_run(TEACHER, "cut")
    assert [each["id"] for each in fresh.client.get("/api/v1/runs").json()["items"]] == [run["id"]]


@pytest.mark.timeout(60)
def test_a_pipeline_whose_answer_is_lost_makes_three_runs(fresh: Live) -> None:
    with cut_before_the_answer(fresh, Run) as client:
        runs = client.submit_pipeline({}, "cut")
    listed = fresh.client.get("/api/v1/runs").json()["items"]
    assert {each["id"] for each in listed} == {run["id"] for run in runs}
    assert len(listed) == 3


@pytest.mark.timeout(60)
def test_a_token_whose_answer_is_lost_is_named_since_its_secret_is_lost(live: Live) -> None:
    with cut_before_the_answer(live, ApiToken) as client, pytest.raises(Refused) as refused:
        client.create_token("lost", "read", "api", None)
    tokens = live.client.get("/api/v1/tokens").json()["items"]
    [lost] = [token["id"] for token in tokens if token["name"] == "lost"]
    assert lost in str(refused.value)
