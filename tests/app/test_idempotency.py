"""A request that is sent again with its Idempotency-Key creates nothing twice."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest
from sqlalchemy import func, select

from app.auth.models import ApiToken
from app.cli.client import Client, Unreachable
from app.datasets.models import Dataset
from app.db import Database, utc_now
from app.idempotency import Creation, IdempotencyKey, Replayed
from app.queue import JobQueue
from app.runs.models import Run
from app.runs.sweeper import Sweeper
from app.settings import Settings
from tests.app.conftest import Api

TEACHER = {"kind": "teacher", "layer_drop": 0.1}
TEXT = b"a line of text\n" * 50
REQUESTS: dict[str, dict[str, Any]] = {
    "/runs": {"json": {"name": "one", "config": TEACHER}},
    "/pipelines": {"json": {"name": "one", "config": {}}},
    "/datasets": {"files": {"file": ("a.txt", TEXT)}, "data": {"name": "one"}},
}
OTHERS: dict[str, dict[str, Any]] = {
    "/runs": {"json": {"name": "two", "config": TEACHER}},
    "/pipelines": {"json": {"name": "two", "config": {}}},
    "/datasets": {"files": {"file": ("a.txt", TEXT + b"more\n")}, "data": {"name": "one"}},
}


def send(api: Api, path: str, request: dict[str, Any], key: str = "k1", **rest: Any) -> Any:
    return api.request("POST", path, headers={"Idempotency-Key": key}, **request, **rest)


def rows(api: Api) -> int:
    """How many runs and datasets there are."""
    with api.context.db.read() as session:
        return sum(
            session.scalar(select(func.count()).select_from(table)) or 0 for table in (Run, Dataset)
        )


@pytest.fixture(params=sorted(REQUESTS))
def path(request: pytest.FixtureRequest) -> str:
    path: str = request.param
    return path


def test_the_same_request_again_gets_the_same_answer(api_everywhere: Api, path: str) -> None:
    api = api_everywhere
    first = send(api, path, REQUESTS[path])
    assert first.status_code == 201, first.text
    created = rows(api)
    again = send(api, path, REQUESTS[path])
    assert again.status_code == 201
    assert again.json() == first.json()
    assert again.headers["content-type"] == "application/json"
    assert rows(api) == created
    uploads = api.context.settings.uploads_dir
    assert len(list(uploads.iterdir()) if uploads.exists() else []) == (path == "/datasets")
    assert send(api, path, REQUESTS[path], key="k2").json() != first.json()
    # What is another credential's is another key.
    assert send(api, path, REQUESTS[path], scope="submit").json() != first.json()
    assert rows(api) == 3 * created


def test_a_key_is_for_one_request(api: Api, path: str) -> None:
    assert send(api, path, REQUESTS[path]).status_code == 201
    created = rows(api)
    elsewhere = "/pipelines" if path == "/runs" else "/runs"
    for other, request in ((path, OTHERS[path]), (elsewhere, REQUESTS[elsewhere])):
        refused = send(api, other, request)
        assert refused.status_code == 422
        assert refused.json()["type"] == "urn:halflayer:problem:idempotency-key-reused"
    assert rows(api) == created


def test_without_a_key_each_request_creates(api: Api) -> None:
    first, second = (api.request("POST", "/runs", **REQUESTS["/runs"]) for _ in range(2))
    assert first.json()["id"] != second.json()["id"]


def test_a_refused_request_does_not_use_its_key_up(api: Api) -> None:
    wrong = {
        "json": {"config": {"kind": "prune", "teacher": {"source": "run", "run_id": "a" * 12}}}
    }
    assert send(api, "/runs", wrong).status_code == 422
    assert send(api, "/runs", REQUESTS["/runs"]).status_code == 201


def test_many_at_once_with_one_key_create_one_thing(api_everywhere: Api, path: str) -> None:
    api = api_everywhere
    api.headers()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: send(api, path, REQUESTS[path]), range(8)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.text for answer in answers}) == 1
    assert rows(api) == (3 if path == "/pipelines" else 1)


def test_a_token_is_created_once_and_its_secret_is_not_kept(api: Api) -> None:
    body = {"json": {"name": "mine", "scope": "read"}}
    first = send(api, "/tokens", body)
    assert first.status_code == 201
    again = send(api, "/tokens", body)
    assert again.status_code == 409
    assert again.headers["content-type"] == "application/problem+json"
    assert first.json()["id"] in again.json()["detail"]
    with api.context.db.read() as session:
        named = select(func.count()).select_from(ApiToken).where(ApiToken.name == "mine")
        assert session.scalar(named) == 1
        stored = session.scalars(select(IdempotencyKey.response)).one()
    assert first.json()["token"] not in stored


@pytest.mark.parametrize("key", ["", "two words", "x" * 256, "tab\there", "\xe4"])
def test_a_key_that_cannot_be_one_is_named(api: Api, key: str) -> None:
    response = send(api, "/runs", REQUESTS["/runs"], key=key.encode("latin-1"))  # type: ignore[arg-type]
    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] == "idempotency-key:"
    assert response.json()["detail"].startswith("idempotency-key: must ")
    assert rows(api) == 0


def test_every_request_that_creates_takes_a_key(api: Api) -> None:
    creating = [
        operation
        for methods in api.app.openapi()["paths"].values()
        for method, operation in methods.items()
        if method == "post" and "201" in operation["responses"]
    ]
    assert len(creating) >= 4
    for operation in creating:
        names = [each["name"] for each in operation.get("parameters", [])]
        assert "idempotency-key" in names, operation["operationId"]


def test_what_is_rolled_back_leaves_no_key(database: Database) -> None:
    def create(fails: bool) -> None:
        with database.write() as session:
            creation = Creation("/runs", "t" * 12, "k1")
            creation.begin(session, "body")
            session.add(Run(id="r" * 12, name="r", kind="teacher", state="queued", config={}))
            creation.end("{}")
            session.flush()
            if fails:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        create(fails=True)
    create(fails=False)
    with pytest.raises(Replayed):
        create(fails=False)


def test_keys_are_forgotten_after_a_day(database: Database, settings: Settings) -> None:
    with database.write() as session:
        for hours in (1, 23, 25, 48):
            session.add(
                IdempotencyKey(
                    token_id="t" * 12,
                    key=f"{hours}h",
                    fingerprint="",
                    status=201,
                    response="{}",
                    created_at=utc_now() - timedelta(hours=hours),
                )
            )
    Sweeper(database, JobQueue(settings), settings).sweep()
    with database.read() as session:
        assert set(session.scalars(select(IdempotencyKey.key))) == {"1h", "23h"}


def test_the_command_line_sends_again_what_a_proxy_has_lost_the_answer_to() -> None:
    keys: list[str | None] = []

    class Gateway(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            keys.append(self.headers["Idempotency-Key"])
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response((502, 504, 201)[len(keys) - 1])
            self.send_header("Content-Length", "12")
            self.end_headers()
            self.wfile.write(b'{"id": "r1"}')

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Gateway) as gateway:
        Thread(target=gateway.serve_forever, daemon=True).start()
        with Client(f"http://127.0.0.1:{gateway.server_port}", "hl_x") as client:
            assert client.submit_run(TEACHER)["id"] == "r1"
        gateway.shutdown()
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert keys[0]


def test_the_command_line_does_not_wait_for_a_server_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("time.sleep", lambda _s: pytest.fail("it waits"))
    with Client("http://127.0.0.1:1", "hl_x") as client, pytest.raises(Unreachable):
        client.submit_run(TEACHER)
