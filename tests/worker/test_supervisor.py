"""A supervisor and trainers that misbehave; what behaves is in test_real_worker.py, for real."""

import hashlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

import worker.supervisor
from app.db import Database
from app.queue import JobQueue
from app.runs import lifecycle
from app.runs.models import Artifact, LogLine, MetricPoint, Run
from app.runs.states import RunState
from app.settings import Settings
from app.storage import Store
from tests.app.runs.test_states import add_run, row
from worker.heartbeat import Heartbeat
from worker.supervisor import Supervisor, Tools
from worker.workspace import Workspace

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

PRELUDE = """
import json, os, signal, sys, time
events = open(sys.argv[1] + "/events.jsonl", "ab", buffering=0)
def say(type, **fields):
    events.write(json.dumps({"type": type, "time_s": time.time(), **fields}).encode() + b"\\n")
def result(sha256=None):
    import hashlib
    os.makedirs(sys.argv[1] + "/model")
    open(sys.argv[1] + "/model/config.json", "w").write("{}")
    files = [{"path": "config.json", "size_bytes": 2,
              "sha256": sha256 or hashlib.sha256(b"{}").hexdigest()}]
    json.dump({"files": files}, open(sys.argv[1] + "/manifest.json", "w"))
    say("result", summary={"steps": 1}, folder="model")
"""
Script = Callable[[str], None]


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Script:
    """Sets the program that plays the trainer."""

    def use(body: str) -> None:
        def command(workspace: Workspace, _cache: Path, _device: str) -> list[str]:
            return [sys.executable, "-c", PRELUDE + body, str(workspace.folder)]

        monkeypatch.setattr(worker.supervisor, "trainer_command", command)

    return use


@pytest.fixture
def tools(settings: Settings, database: Database) -> Iterator[Tools]:
    settings.heartbeat_s = 0.2
    settings.stop_grace_s = 1.5
    heartbeat = Heartbeat(database, "w00000000001", settings)
    heartbeat.start()
    job_queue = JobQueue(settings)
    yield Tools(
        settings=settings,
        db=database,
        store=Store(settings),
        job_queue=job_queue,
        heartbeat=heartbeat,
        worker_id="w00000000001",
        device="cpu",
        leave=threading.Event(),
        check_device=lambda: None,
    )
    heartbeat.stop()
    job_queue.close()


def start(tools: Tools, run_id: str) -> threading.Thread:
    thread = threading.Thread(target=Supervisor(tools).answer, args=(run_id,))
    thread.start()
    return thread


def wait_for(condition: Callable[[], object], timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.05)


def take_back(session: Session, run_id: str) -> None:
    """Queue the run again, as if its worker had not been heard of for too long."""
    run = session.get_one(Run, run_id)
    lifecycle.recover(session, run_id, run.attempt, run.beat, max_attempts=3)


def steps(database: Database) -> list[int]:
    with database.read() as session:
        return list(session.scalars(select(MetricPoint.step).order_by(MetricPoint.seq)))


def messages(database: Database) -> str:
    with database.read() as session:
        return "\n".join(session.scalars(select(LogLine.message)))


def test_points_logs_progress_and_files_arrive(
    tools: Tools, database: Database, trainer: Script
) -> None:
    trainer(
        """
say("started", config={}, versions={"torch": "x"}, device="cpu")
say("progress", phase="training", done=1, total=2, unit="steps", eta_s=1.0)
say("metrics", step=1, values={"loss": 2.5, "lr": None})
print("a library complains", file=sys.stderr)
events.write(b"torn li")
events.write(b"ne\\n")
say("checkpoint", step=1, path="checkpoints/x")
result()
"""
    )
    run_id = add_run(database)
    Supervisor(tools).answer(run_id)
    run = row(database, run_id)
    assert (run.state, run.error_message) == (RunState.SUCCEEDED, None)
    assert run.result == {"steps": 1}
    assert run.checkpoint_step == 1
    assert run.environment == {"versions": {"torch": "x"}, "device": "cpu"}
    assert steps(database) == [1, 1]
    assert "a library complains" in messages(database)
    assert "not JSON" in messages(database)
    with database.read() as session:
        file = session.scalars(select(Artifact)).one()
    assert file.sha256 == hashlib.sha256(b"{}").hexdigest()
    with tools.store.open(file.storage_key) as stored:
        assert stored.read() == b"{}"


def test_a_result_that_differs_from_its_manifest_is_never_published(
    tools: Tools, database: Database, trainer: Script
) -> None:
    trainer("result(sha256='0' * 64)")
    run_id = add_run(database)
    Supervisor(tools).answer(run_id)
    run = row(database, run_id)
    assert (run.state, run.error_code) == (RunState.FAILED, "internal")
    assert "differs from its manifest" in (run.error_message or "")
    with database.read() as session:
        assert session.scalars(select(Artifact)).all() == []


def test_a_stored_config_that_breaks_a_rule_by_now_fails_as_config(
    tools: Tools, database: Database
) -> None:
    run_id = add_run(database)
    with database.write() as session:
        session.get_one(Run, run_id).config = {"kind": "teacher", "tokenizer": {"source": "model"}}
    start(tools, run_id).join(20)
    ended = row(database, run_id)
    assert (ended.state, ended.error_code) == (RunState.FAILED, "config")
    assert str(ended.error_message).startswith("tokenizer: a model from scratch has no tokenizer")
    assert "pydantic" not in str(ended.error_message)


def test_a_crash_is_failed_with_the_trainers_last_words(
    tools: Tools, database: Database, trainer: Script
) -> None:
    trainer("raise RuntimeError('the very reason')")
    run_id = add_run(database)
    Supervisor(tools).answer(run_id)
    run = row(database, run_id)
    assert run.error_code == "internal"
    assert "the very reason" in (run.error_message or "")


def test_a_killed_trainer_is_tried_again_until_it_is_in_vain(
    tools: Tools, database: Database, trainer: Script
) -> None:
    trainer("say('metrics', step=1, values={'loss': 1.0}); os.kill(os.getpid(), 9)")
    run_id = add_run(database)
    for attempt in (1, 2, 3):
        Supervisor(tools).answer(run_id)
        assert row(database, run_id).attempt == attempt
    run = row(database, run_id)
    assert (run.state, run.error_code) == (RunState.FAILED, "worker_lost")
    assert "SIGKILL" in (run.error_message or "")
    assert steps(database) == [1, 1, 1]
    assert tools.job_queue.length() == 2


def test_a_worker_without_its_device_leaves_the_run_to_others(
    tools: Tools, database: Database, trainer: Script
) -> None:
    trainer("say('failed', code='device_lost', message='CUDA error: ECC', field=None); sys.exit(1)")
    seen: list[tuple[str, int]] = []

    def gone() -> None:
        seen.append((row(database, run_id).state, tools.job_queue.length()))
        tools.leave.set()

    worker_without = replace(tools, check_device=gone)
    run_id = add_run(database)
    Supervisor(worker_without).answer(run_id)
    assert seen == [(RunState.QUEUED, 0)], "it looks before it rings for others"
    assert "attempt 1 was lost: CUDA error: ECC" in messages(database)
    Supervisor(worker_without).answer(run_id)
    assert row(database, run_id).attempt == 1
    assert tools.job_queue.length() == 2


def test_a_run_that_finds_no_device_that_works_says_so(
    tools: Tools, database: Database, trainer: Script
) -> None:
    trainer("say('failed', code='device_lost', message='CUDA error: ECC', field=None); sys.exit(1)")
    run_id = add_run(database)
    for _ in range(3):
        Supervisor(tools).answer(run_id)
    run = row(database, run_id)
    assert (run.state, run.error_code) == (RunState.FAILED, "device_lost")
    assert "CUDA error: ECC" in (run.error_message or "")


def test_a_cancelled_trainer_that_ignores_sigterm_is_killed_with_its_children(
    tools: Tools, database: Database, trainer: Script
) -> None:
    trainer(
        """
import subprocess
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
say("log", level="info", message=f"child {child.pid}")
time.sleep(600)
"""
    )
    run_id = add_run(database)
    thread = start(tools, run_id)
    wait_for(lambda: "child" in messages(database))
    child = int(messages(database).split()[-1])
    with database.write() as session:
        lifecycle.cancel(session, run_id)
    thread.join(30)
    assert row(database, run_id).state == RunState.CANCELLED
    wait_for(lambda: not Path(f"/proc/{child}").exists() or _is_zombie(child))


def _is_zombie(pid: int) -> bool:
    return ") Z " in Path(f"/proc/{pid}/stat").read_text()


def test_a_trainer_that_hangs_is_killed_and_its_run_goes_on(
    tools: Tools, database: Database, trainer: Script
) -> None:
    tools.settings.hung_after_s = 2.0
    trainer(
        """
if os.path.exists(sys.argv[1] + "/checkpoints"):
    result()
else:
    os.makedirs(sys.argv[1] + "/checkpoints/step-7")
    open(sys.argv[1] + "/checkpoints/step-7/state.json", "w").close()
    say("checkpoint", step=7, path="checkpoints/step-7")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.kill(os.getpid(), signal.SIGSTOP)
"""
    )
    run_id = add_run(database)
    Supervisor(tools).answer(run_id)
    run = row(database, run_id)
    assert (run.state, run.attempts_without_progress) == (RunState.QUEUED, 0)
    assert "attempt 1 was lost: the trainer reported nothing for" in messages(database)
    Supervisor(tools).answer(run_id)
    run = row(database, run_id)
    assert (run.state, run.attempt) == (RunState.SUCCEEDED, 2), run.error_message


def test_a_trainer_that_always_hangs_is_given_up(
    tools: Tools, database: Database, trainer: Script
) -> None:
    tools.settings.hung_after_s = 0.5
    trainer("time.sleep(600)")
    run_id = add_run(database)
    for _ in range(3):
        Supervisor(tools).answer(run_id)
    run = row(database, run_id)
    assert (run.state, run.error_code) == (RunState.FAILED, "worker_lost")
    assert "reported nothing" in (run.error_message or "")


@pytest.mark.parametrize("hung_after_s", [0.5, 1800.0])
def test_a_result_counts_though_its_trainer_hangs_on_its_way_out(
    tools: Tools, database: Database, trainer: Script, hung_after_s: float
) -> None:
    """Killed by the watchdog, or after the grace that any trainer has to leave."""
    tools.settings.hung_after_s = hung_after_s
    trainer("result(); signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)")
    run_id = add_run(database)
    Supervisor(tools).answer(run_id)
    run = row(database, run_id)
    assert (run.state, run.result, run.attempt) == (RunState.SUCCEEDED, {"steps": 1}, 1)


def test_a_failure_counts_though_its_trainer_hangs_on_its_way_out(
    tools: Tools, database: Database, trainer: Script
) -> None:
    tools.settings.hung_after_s = 0.5
    trainer("say('failed', code='nan', message='loss became NaN', field=None); time.sleep(600)")
    run_id = add_run(database)
    Supervisor(tools).answer(run_id)
    run = row(database, run_id)
    assert (run.state, run.error_code) == (RunState.FAILED, "nan"), run.error_message


def test_leaving_stops_the_trainer_and_queues_the_run_at_once(
    tools: Tools, database: Database, trainer: Script
) -> None:
    trainer(
        """
def leave(*_):
    say("checkpoint", step=5, path="checkpoints/x"); say("stopped", step=5); os._exit(75)
signal.signal(signal.SIGTERM, leave)
say("metrics", step=1, values={"loss": 1.0})
time.sleep(600)
"""
    )
    run_id = add_run(database)
    thread = start(tools, run_id)
    wait_for(lambda: steps(database))
    tools.leave.set()
    thread.join(20)
    run = row(database, run_id)
    assert (run.state, run.checkpoint_step) == (RunState.QUEUED, 5)
    assert run.attempts_without_progress == 0
    assert tools.job_queue.length() == 1
    Supervisor(tools).answer(run_id)
    assert row(database, run_id).attempt == 1, "a worker that leaves takes nothing"
    assert tools.job_queue.length() == 2, "and enqueues the run again"


def test_a_worker_that_lost_its_run_kills_its_trainer_and_writes_nothing(
    tools: Tools, database: Database, trainer: Script
) -> None:
    trainer("say('log', level='info', message=f'pid {os.getpid()}'); time.sleep(600)")
    run_id = add_run(database)
    thread = start(tools, run_id)
    wait_for(lambda: "pid" in messages(database))
    pid = int(messages(database).split()[-1])
    with database.write() as session:
        take_back(session, run_id)
    thread.join(20)
    assert not thread.is_alive()
    assert not Path(f"/proc/{pid}").exists()
    assert row(database, run_id).state == RunState.QUEUED
    assert Workspace.of(tools.settings, run_id, 1).folder.exists(), "the next attempt needs it"


def test_a_worker_whose_run_has_ended_elsewhere_leaves_nothing(
    tools: Tools, database: Database, trainer: Script
) -> None:
    trainer("say('log', level='info', message='at work'); time.sleep(600)")
    run_id = add_run(database)
    thread = start(tools, run_id)
    wait_for(lambda: "at work" in messages(database))
    with database.write() as session:
        take_back(session, run_id)
        lifecycle.cancel(session, run_id)
    thread.join(20)
    assert not thread.is_alive()
    assert row(database, run_id).state == RunState.CANCELLED
    assert not (tools.settings.work_dir / run_id).exists()


def test_a_database_that_is_away_does_not_end_the_training(
    tools: Tools, database: Database, trainer: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer(
        """
for step in range(1, 21):
    say("metrics", step=step, values={"loss": 1.0}); time.sleep(0.1)
result()
"""
    )
    run_id = add_run(database)
    thread = start(tools, run_id)
    wait_for(lambda: steps(database))
    away = threading.Event()
    away.set()
    real_write, real_read = database.write, database.read

    def refuse() -> None:
        if away.is_set():
            raise OperationalError("SELECT 1", {}, Exception("the server closed the connection"))

    def write() -> object:
        refuse()
        return real_write()

    def read() -> object:
        refuse()
        return real_read()

    monkeypatch.setattr(database, "write", write)
    monkeypatch.setattr(database, "read", read)
    time.sleep(4)
    assert thread.is_alive(), "the end waits for the database"
    away.clear()
    thread.join(30)
    assert row(database, run_id).state == RunState.SUCCEEDED
    assert steps(database) == list(range(1, 21))


def test_an_answer_lost_at_commit_doubles_nothing(
    tools: Tools, database: Database, trainer: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each kind of write once commits and then fails, as when the connection dies in between."""
    trainer(
        """
for step in range(1, 31):
    say("metrics", step=step, values={"loss": 1.0}); time.sleep(0.05)
result()
"""
    )
    run_id = add_run(database)
    # The claim, the step to this attempt's files, points, points, ..., the end.
    failures = iter([False, True, True, False, True] + 20 * [True, False])
    real_write = database.write

    class Lossy:
        def __init__(self) -> None:
            self._inner = real_write()

        def __enter__(self) -> object:
            return self._inner.__enter__()

        def __exit__(self, *error: object) -> object:
            done = self._inner.__exit__(*error)  # type: ignore[arg-type]
            mine = threading.current_thread() is threading.main_thread()
            if mine and error[0] is None and next(failures):
                raise OperationalError("COMMIT", {}, Exception("connection lost"))
            return done

    monkeypatch.setattr(database, "write", Lossy)
    Supervisor(tools).answer(run_id)
    monkeypatch.undo()
    run = row(database, run_id)
    assert (run.state, run.error_message) == (RunState.SUCCEEDED, None)
    assert steps(database) == list(range(1, 31))
    with database.read() as session:
        file = session.scalars(select(Artifact)).one()
    assert tools.store.size(file.storage_key) == 2


def test_a_new_attempt_reads_what_the_last_one_said_and_inherits_its_checkpoints(
    tools: Tools, database: Database, trainer: Script, settings: Settings
) -> None:
    trainer("assert open(sys.argv[1] + '/checkpoints/step-1/state.json').read() == 'x'; result()")
    run_id = add_run(database, attempt=1, tail_attempt=1)
    old = Workspace.of(settings, run_id, 1)
    (old.checkpoints / "step-1").mkdir(parents=True)
    (old.checkpoints / "step-1" / "state.json").write_text("x")
    said = [
        {"type": "metrics", "step": 1, "values": {"loss": 1.0}},
        {"type": "checkpoint", "step": 1, "path": "checkpoints/step-1"},
    ]
    old.events.write_text("".join(json.dumps(event) + "\n" for event in said) + '{"half')
    Supervisor(tools).answer(run_id)
    run = row(database, run_id)
    assert (run.state, run.attempt) == (RunState.SUCCEEDED, 2), run.error_message
    assert (run.checkpoint_step, run.claimed_checkpoint_step) == (1, 1)
    with database.read() as session:
        point = session.scalars(select(MetricPoint)).one()
    assert (point.step, point.attempt) == (1, 1)
