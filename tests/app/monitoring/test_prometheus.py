"""What /metrics serves, that the dashboard asks for nothing else, and the age of beats."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.runs.states import RunState
from app.workers.heartbeat_age import HeartbeatAges
from app.workers.models import Worker
from tests.app.conftest import Api

DASHBOARD = Path(__file__).parents[3] / "deploy" / "grafana" / "halflayer.json"
NAME = re.compile(r"\b(?:halflayer|process)_\w+")
USAGE = {
    "cpu_cores": 1.5,
    "memory_bytes": 2**30,
    "device_busy": 0.87,
    "device_memory_used_bytes": 2**32,
}


def samples(api: Api) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample of one scrape, as Prometheus' own parser reads it."""
    response = api.client.get("/metrics", headers=api.headers("read"))
    assert response.status_code == 200
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


@pytest.fixture
def busy(api_everywhere: Api) -> Api:
    """An installation of which every figure can be had."""
    api = api_everywhere
    worker = Worker(
        id="w1", hostname="gpu-1", pid=1, device="cuda:0", device_name="GPU", version="1",
        memory_bytes=2**33, usage=USAGE,
    )  # fmt: skip
    api.add(worker, Worker(id="w2", hostname="old", pid=2, device="cpu", device_name="CPU",
                           version="0"))  # fmt: skip
    api.add_run(RunState.FAILED)
    api.get("/runs")
    return api


def _expressions(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["expr"]] if "expr" in node else []
        return own + [found for value in node.values() for found in _expressions(value)]
    return (
        [found for each in node for found in _expressions(each)] if isinstance(node, list) else []
    )


def test_the_dashboard_asks_only_for_what_is_served(busy: Api) -> None:
    served = {name for name, _ in samples(busy)}
    expressions = _expressions(json.loads(DASHBOARD.read_text()))
    asked = {name for expression in expressions for name in NAME.findall(expression)}
    assert len(asked) > 15
    assert asked - served == set()


def test_the_dashboard_shows_every_figure_of_ours(busy: Api) -> None:
    text = " ".join(_expressions(json.loads(DASHBOARD.read_text())))
    suffixes = ("_bucket", "_count", "_sum", "_created")
    ours = {name for name, _ in samples(busy) if name.startswith("halflayer_")}
    assert [name for name in ours if name not in text and not name.endswith(suffixes)] == []


def test_figures_of_workers_and_their_devices(busy: Api) -> None:
    found = samples(busy)
    gpu = frozenset({"worker": "w1", "host": "gpu-1", "device": "cuda:0"}.items())
    old = frozenset({"worker": "w2", "host": "old", "device": "cpu"}.items())
    assert found["halflayer_device_busy_ratio", gpu] == 0.87
    assert found["halflayer_device_memory_used_bytes", gpu] == 2**32
    assert found["halflayer_device_memory_bytes", gpu] == 2**33
    assert found["halflayer_worker_cpu_cores", gpu] == 1.5
    # A worker of an older version says nothing of its use, but it beats.
    assert ("halflayer_worker_cpu_cores", old) not in found
    assert ("halflayer_worker_heartbeat_age_seconds", old) in found


def test_the_queue_and_the_states(busy: Api) -> None:
    busy.add_run(RunState.QUEUED)
    found = samples(busy)
    assert found["halflayer_runs", frozenset({("state", "failed")})] == 1
    assert found["halflayer_runs", frozenset({("state", "running")})] == 0
    assert found["halflayer_queue_length", frozenset()] == 0
    assert found["halflayer_broker_up", frozenset()] == 1
    assert found["halflayer_streams_limit", frozenset()] > 0
    assert found["process_resident_memory_bytes", frozenset()] > 2**20


def test_the_age_of_a_beat_is_by_our_own_clock() -> None:
    now_s = 100.0
    beats = HeartbeatAges(clock=lambda: now_s)
    assert beats.ages_s({"a": 7, "b": 1}) == {"a": 0, "b": 0}
    now_s = 130.0
    assert beats.ages_s({"a": 9, "b": 1}) == {"a": 0, "b": 30}
    now_s = 140.0
    assert beats.ages_s({"a": 9, "b": 1, "c": 5}) == {"a": 10, "b": 40, "c": 0}
    # One that signed out and came back is not known any more.
    assert beats.ages_s({"a": 9}) == {"a": 10}
    assert beats.ages_s({"b": 1}) == {"b": 0}
