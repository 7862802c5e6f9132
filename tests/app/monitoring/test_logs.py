"""Logs as a machine reads them: one JSON object a line, whatever is in it, with ids."""

import io
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.local.embedded_broker import free_port
from app.monitoring import logs
from app.settings import Settings


@pytest.fixture
def json_lines() -> Iterator[io.StringIO]:
    """What a logger of its own writes as JSON."""
    yield from _written(logs.JsonLines("test"))


@pytest.fixture
def text_lines() -> Iterator[io.StringIO]:
    """What a logger of its own writes as text."""
    yield from _written(logs.TextLines())


def _written(formatter: logging.Formatter) -> Iterator[io.StringIO]:
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(formatter)
    logger = logging.getLogger("test.logs")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield written
    logger.removeHandler(handler)


LOGGER = logging.getLogger("test.logs")
HOSTILE = 'a\nb\r{"level": "forged"}\u2028\ud800\0'


def test_json_lines_carry_what_is_bound_and_what_is_extra(json_lines: io.StringIO) -> None:
    with logs.bound(run_id="r1"), logs.bound(attempt=2):
        LOGGER.info("hello %s", "you", extra={"ms": 1.5})
    LOGGER.warning("bye")
    first, second = map(json.loads, json_lines.getvalue().splitlines())
    assert first.items() >= {
        "level": "info", "service": "test", "logger": "test.logs", "message": "hello you",
        "run_id": "r1", "attempt": 2, "ms": 1.5,
    }.items()  # fmt: skip
    assert first["time"].endswith("+00:00")
    assert "run_id" not in second


def test_no_text_breaks_a_json_line(json_lines: io.StringIO) -> None:
    with logs.bound(name_of_run=HOSTILE):
        try:
            raise ValueError(HOSTILE)
        except ValueError:
            LOGGER.exception(HOSTILE, extra={"path": Path("x")})
    (line,) = json_lines.getvalue().splitlines()
    found = json.loads(line)
    assert (found["message"], found["name_of_run"], found["level"]) == (HOSTILE, HOSTILE, "error")
    assert "Traceback" in found["exception"]


def test_text_lines_carry_the_fields_too(text_lines: io.StringIO) -> None:
    with logs.bound(run_id="r1", name_of_run="two words\n"):
        LOGGER.info("hello")
    assert text_lines.getvalue().endswith('hello run_id=r1 name_of_run="two words\\n"\n')


def test_what_is_bound_in_a_thread_stays_there(json_lines: io.StringIO) -> None:
    with logs.bound(run_id="mine"):
        thread = threading.Thread(target=LOGGER.info, args=("elsewhere",))
        thread.start()
        thread.join()
    assert "run_id" not in json.loads(json_lines.getvalue())


def test_of_one_cause_only_so_many_lines_are_written_a_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = io.StringIO()
    handler = logs.LimitedHandler(written)
    logger = logging.getLogger("test.limited")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)

    def flood(times: int) -> list[str]:
        written.truncate(0)
        for number in range(times):
            logger.warning("away: %d", number)
            logger.info("refused", extra={"status": 401})
            logger.info("refused", extra={"status": 0})
            logger.info("served", extra={"status": 200})
            logger.info("of us")
        return written.getvalue().replace("\0", "").splitlines()

    limit = logs.LINES_PER_INTERVAL
    found = flood(limit + 30)
    assert len([line for line in found if line.startswith("away")]) == limit
    assert found.count("refused") == 2 * limit
    assert found.count("served") == found.count("of us") == limit + 30
    monkeypatch.setattr(logs, "INTERVAL_S", 0.0)  # the minute is over
    handler.setFormatter(logs.TextLines())
    with logs.bound(request_id="r1"):
        found = flood(1)
    words = "30 more lines like this one were suppressed"
    assert [line.partition("test.limited: ")[2] for line in found[:4]] == [
        f"{words}: away: 89",
        f"{words}: refused status=401",
        f"{words}: refused status=0",
        "away: 0 request_id=r1",
    ]
    logger.removeHandler(handler)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.integration
def test_the_api_logs_json_only_with_the_id_of_each_request(
    sqlite_settings: Settings, tmp_path: Path
) -> None:
    port = free_port()
    log = tmp_path / "api.log"
    environment = os.environ | {
        "HALFLAYER_DATA_DIR": str(sqlite_settings.data_dir),
        "HALFLAYER_DATABASE_URL": sqlite_settings.database_url,
        "HALFLAYER_BROKER_URL": sqlite_settings.broker_url,
        "HALFLAYER_PORT": str(port),
        "HALFLAYER_LOG_FORMAT": "json",
    }
    with open(log, "wb") as stderr:
        api = subprocess.Popen(
            [sys.executable, "-m", "app.server"], env=environment, stderr=stderr, stdout=stderr
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            for _ in range(600):
                try:
                    client.get("/healthz")
                    break
                except httpx.TransportError:
                    time.sleep(0.1)
            refused = client.get("/api/v1/runs/%0a%22forged?token=secret")
            assert refused.status_code in (401, 404)
        api.send_signal(signal.SIGTERM)
        api.wait(timeout=60)
    finally:
        api.kill()
        api.wait()
    lines = _lines(log)
    assert any(line["logger"].startswith("uvicorn") for line in lines)
    assert not [line for line in lines if line.get("route") == "healthz"]
    (request,) = [line for line in lines if line["logger"] == "app.requests"]
    assert request["request_id"] == refused.headers["x-request-id"]
    assert request["message"] == f"GET /api/v1/runs/%0a%22forged {refused.status_code}"
    assert (request["route"], request["status"]) == ("get_run", refused.status_code)
    assert request["ms"] >= 0
    assert "secret" not in log.read_text()
