"""A real worker process, real kdcore trainers, a real broker: a pipeline from submit to files."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from sqlalchemy import func, select

from app.db import Database
from app.queue import JobQueue
from app.runs.lifecycle import cancel
from app.runs.models import Artifact, LogLine, MetricPoint, Run
from app.runs.service import submit, submit_pipeline
from app.runs.states import ACTIVE, FINAL, RunState
from app.settings import Settings
from app.storage import Store
from app.workers.models import Worker
from kdcore.config import RUN_CONFIG, PipelineConfig
from tests.fixtures.configs import TINY_TEACHER
from worker.fleet import EXIT_NO_DEVICE

ENDLESS = TINY_TEACHER | {"schedule": {"epochs": 10_000, "batch_size": 2}}


@pytest.fixture
def corpus(settings: Settings, database: Database) -> dict[str, str]:
    """A small uploaded text, as the endpoint would have stored it."""
    from app.datasets.models import Dataset  # noqa: PLC0415
    from app.datasets.service import dataset_path  # noqa: PLC0415

    text = "".join(
        f"the quick brown fox number {i} jumps over {i % 7} lazy dogs and sleeps under a tree\n"
        for i in range(2000)
    )
    dataset = Dataset(
        id="d00000000001",
        name="foxes",
        kind="text",
        format="txt",
        columns="",
        size_bytes=len(text),
        documents=2000,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
    )
    path = dataset_path(settings, dataset)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with database.write() as session:
        session.add(dataset)
    return {"source": "upload", "dataset_id": "d00000000001"}


WITH_A_CARD_THAT_FAILS = """
import sys
import worker.main as main
look, first = main.problem_of, [None]
main.devices = lambda *_: [main.Device("cuda:0", "a card that was there at the start", 1)]
main.problem_of = lambda device: first.pop() if first else look(device)
sys.exit(main.main([]))
"""


@contextmanager
def worker_process(
    settings: Settings, program: tuple[str, ...] = ("-m", "worker.main"), **changes: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A worker with the installation's settings; its log is shown when a test fails.

    No process stands by for a second run, which loads torch, where a test has only one.
    """
    environment = os.environ | {
        "HALFLAYER_DATA_DIR": str(settings.data_dir),
        "HALFLAYER_DATABASE_URL": settings.database_url,
        "HALFLAYER_BROKER_URL": settings.broker_url,
        "HALFLAYER_HEARTBEAT_S": "0.5",
        "OMP_NUM_THREADS": "1",
        "HALFLAYER_DEVICE": "cpu",
        "HALFLAYER_STANDBY": "false",
        **changes,
    }
    process = subprocess.Popen([sys.executable, *program], env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(condition: Callable[[], bool], timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.1)


def run_row(database: Database, run_id: str) -> Run:
    with database.read() as session:
        run = session.get_one(Run, run_id)
        _ = run.inputs
        return run


def submit_and_ring(database: Database, settings: Settings, config: dict[str, Any]) -> str:
    with database.write() as session:
        run_id = submit(session, RUN_CONFIG.validate_python({"kind": "teacher"} | config)).id
    job_queue = JobQueue(settings)
    assert job_queue.enqueue(run_id)
    job_queue.close()
    return run_id


def points(database: Database, run_id: str, name: str) -> list[tuple[int, int, float | None]]:
    with database.read() as session:
        rows = session.execute(
            select(MetricPoint.step, MetricPoint.attempt, MetricPoint.value)
            .where(MetricPoint.run_id == run_id, MetricPoint.name == name)
            .order_by(MetricPoint.seq)
        )
        return [(step, attempt, value) for step, attempt, value in rows]


def test_a_pipeline_runs_from_submit_to_published_files(
    settings: Settings, database: Database, corpus: dict[str, str], tmp_path: Path
) -> None:
    config = PipelineConfig.model_validate(
        {
            "teacher": TINY_TEACHER | {"corpus": corpus},
            "distill": {
                "schedule": {"max_steps": 4, "batch_size": 4},
                "reporting": {"log_every_steps": 1},
                "evaluation": {"max_sequences": 8},
                "precision": "fp32",
            },
        }
    )
    with database.write() as session:
        ids = [run.id for run in submit_pipeline(session, config, "tiny")]
    assert [run_row(database, run_id).state for run_id in ids] == ["queued", "waiting", "waiting"]
    job_queue = JobQueue(settings)
    assert job_queue.enqueue(ids[0])

    with worker_process(settings, HALFLAYER_STANDBY="true") as worker:
        wait_for(lambda: all(run_row(database, i).state in FINAL for i in ids), 240)
        runs = [run_row(database, run_id) for run_id in ids]
        assert [run.state for run in runs] == ["succeeded"] * 3, [r.error_message for r in runs]
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0

    teacher, pruned, distilled = runs
    assert [run.attempt for run in runs] == [1, 1, 1]
    assert teacher.shape is not None
    assert teacher.shape["layers"] == 2
    assert teacher.shape["vocab_size"] > 0
    assert pruned.shape is not None
    assert distilled.shape == pruned.shape
    assert teacher.result is not None
    assert teacher.result["eval_loss"] > 0
    assert "shape" not in teacher.result
    assert teacher.environment is not None
    assert teacher.environment["versions"]["torch"]
    assert [step for step, _, _ in points(database, teacher.id, "loss")] == list(range(1, 9))
    with database.read() as session:
        for run in runs:
            files = session.scalars(select(Artifact).where(Artifact.run_id == run.id)).all()
            assert {"config.json", "model.safetensors"} <= {file.path for file in files}
            for file in files:
                assert Store(settings).size(file.storage_key) == file.size_bytes
            notes = {file.path: file.storage_key for file in files}
            for name in ("README.md", "halflayer.json"):
                Store(settings).fetch(notes[name], tmp_path / run.id / name)
                text = (tmp_path / run.id / name).read_text()
                assert str(settings.work_dir) not in text, "another machine knows no such path"
                assert run is teacher or teacher.id in text
        signed_in = session.scalars(select(Worker)).one()
        assert signed_in.stopped_at is not None
    assert not list(settings.work_dir.glob("*")), "work folders of succeeded runs are removed"
    assert job_queue.length() == 0
    job_queue.close()


@pytest.mark.parametrize(
    "database_url", [pytest.param("postgres", marks=pytest.mark.postgres)], indirect=True
)
def test_a_worker_that_leaves_queues_its_run_and_the_next_resumes_it(
    settings: Settings, database: Database, corpus: dict[str, str]
) -> None:
    run_id = submit_and_ring(database, settings, ENDLESS | {"corpus": corpus})
    with worker_process(settings) as first:
        wait_for(lambda: len(points(database, run_id, "loss")) >= 3)
        first.send_signal(signal.SIGTERM)
        assert first.wait(60) == 0
    left = run_row(database, run_id)
    assert left.state == RunState.QUEUED
    assert left.attempts_without_progress == 0
    saved = left.checkpoint_step
    assert saved is not None

    with worker_process(settings) as second:
        wait_for(lambda: any(a == 2 for _, a, _ in points(database, run_id, "loss")))
        first_new = next(s for s, a, _ in points(database, run_id, "loss") if a == 2)
        assert first_new == saved + 1
        with database.write() as session:
            assert cancel(session, run_id).state == RunState.CANCELLING
        wait_for(lambda: run_row(database, run_id).state == RunState.CANCELLED, 40)
        assert second.poll() is None, "the worker goes on"


def test_a_killed_worker_takes_its_trainer_along_and_another_resumes(
    settings: Settings, database: Database, corpus: dict[str, str]
) -> None:
    run_id = submit_and_ring(database, settings, ENDLESS | {"corpus": corpus})
    impatient = {"HALFLAYER_LEASE_S": "3", "HALFLAYER_REQUEUE_AFTER_S": "2"}
    with worker_process(settings, **impatient) as first:
        wait_for(lambda: len(points(database, run_id, "loss")) >= 5)
        first.kill()
        first.wait()
    assert run_row(database, run_id).state in ACTIVE
    events = settings.work_dir / run_id / "attempt-1" / "events.jsonl"
    size = -1
    deadline = time.monotonic() + 10
    while size != events.stat().st_size:
        assert time.monotonic() < deadline, "the trainer outlives its worker"
        size = events.stat().st_size
        time.sleep(1)
    said = [json.loads(line) for line in events.read_text().splitlines() if line.endswith("}")]
    steps_said = {e["step"] for e in said if e["type"] == "metrics" and "loss" in e["values"]}

    with worker_process(settings, **impatient):
        wait_for(lambda: any(a == 2 for _, a, _ in points(database, run_id, "loss")))
        found = points(database, run_id, "loss")
        with database.write() as session:
            cancel(session, run_id)
        wait_for(lambda: run_row(database, run_id).state == RunState.CANCELLED, 40)
    assert len({(s, a) for s, a, _ in found}) == len(found), "no point twice"
    assert {s for s, a, _ in found if a == 1} == steps_said, "what was not read yet is read later"
    steps = {s for s, _, _ in found}
    assert steps == set(range(1, max(steps) + 1)), "no gap"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_failure_is_typed_and_skips_what_waits(
    settings: Settings, database: Database, corpus: dict[str, str]
) -> None:
    config = PipelineConfig.model_validate({"teacher": TINY_TEACHER | {"corpus": corpus}})
    (settings.uploads_dir / "d00000000001").rename(settings.uploads_dir / "gone")
    with database.write() as session:
        ids = [run.id for run in submit_pipeline(session, config)]
    job_queue = JobQueue(settings)
    job_queue.enqueue(ids[0])
    job_queue.close()
    with worker_process(settings):
        wait_for(lambda: all(run_row(database, i).state in FINAL for i in ids))
    teacher, *rest = [run_row(database, run_id) for run_id in ids]
    assert (teacher.state, teacher.error_code) == ("failed", "data")
    assert "is missing" in (teacher.error_message or "")
    assert [run.state for run in rest] == ["skipped", "skipped"]
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(LogLine)) == 0


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.skipif(torch.cuda.is_available(), reason="the card would not be missing")
def test_a_worker_that_lost_its_card_leaves_and_another_takes_the_run(
    settings: Settings, database: Database, corpus: dict[str, str]
) -> None:
    run_id = submit_and_ring(database, settings, TINY_TEACHER | {"corpus": corpus})
    with worker_process(settings, ("-c", WITH_A_CARD_THAT_FAILS)) as first:
        assert first.wait(120) == EXIT_NO_DEVICE
    run = run_row(database, run_id)
    assert (run.state, run.attempt, run.error_code) == (RunState.QUEUED, 1, None)
    with database.read() as session:
        gone = session.scalars(select(Worker)).one()
        said = session.scalars(select(LogLine.message)).all()
    assert gone.stopped_at is not None
    assert gone.note is not None
    assert gone.note.startswith("cuda:0 cannot be used any more: ")
    assert any("there is no cuda:0" in message for message in said)

    with worker_process(settings):
        wait_for(lambda: run_row(database, run_id).state in FINAL)
    assert run_row(database, run_id).state == RunState.SUCCEEDED


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_worker_that_must_have_a_gpu_says_that_there_is_none(settings: Settings) -> None:
    with worker_process(settings, HALFLAYER_DEVICE="cuda") as worker:
        assert worker.wait(60) == EXIT_NO_DEVICE
