"""The log of a real worker, for a machine to read."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from app.db import Database, new_id
from app.queue import JobQueue
from app.runs.models import Run
from app.runs.states import RunState
from app.settings import Settings
from kdcore.config import TeacherConfig, UploadCorpus


def test_every_line_is_json_and_those_of_a_run_carry_its_ids(
    sqlite_url: str, broker_url: str, tmp_path: Path
) -> None:
    settings = Settings(data_dir=tmp_path, database_url=sqlite_url, broker_url=broker_url)
    # Of a text that is not there: it fails before anything is trained.
    config = TeacherConfig(corpus=UploadCorpus(dataset_id=new_id()))
    run_id = new_id()
    db = Database(sqlite_url)
    with db.write() as session:
        run = Run(id=run_id, name="x", kind="teacher", state=RunState.QUEUED)
        run.config = config.model_dump(mode="json")
        session.add(run)
    log = tmp_path / "worker.log"
    environment = os.environ | {
        "HALFLAYER_DATA_DIR": str(settings.data_dir),
        "HALFLAYER_DATABASE_URL": settings.database_url,
        "HALFLAYER_BROKER_URL": settings.broker_url,
        "HALFLAYER_LOG_FORMAT": "json",
    }
    with open(log, "wb") as stderr:
        worker = subprocess.Popen(
            [sys.executable, "-m", "worker.main", "--device", "cpu"],
            env=environment,
            stderr=stderr,
            stdout=subprocess.DEVNULL,
        )
    job_queue = JobQueue(settings)
    try:
        assert job_queue.enqueue(run_id)
        for _ in range(1200):
            with db.read() as session:
                if session.get_one(Run, run_id).state == RunState.FAILED:
                    break
            time.sleep(0.1)
        worker.send_signal(signal.SIGTERM)
        worker.wait(timeout=60)
    finally:
        worker.kill()
        worker.wait()
        job_queue.close()
        db.close()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {line["service"] for line in lines} == {"worker"}
    about_run = [line for line in lines if run_id in line["message"]]
    assert about_run
    assert {(line["run_id"], line["attempt"]) for line in about_run} == {(run_id, 1)}
