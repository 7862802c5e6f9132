"""Hosts that share a store instead of a data folder: what one leaves there, another goes on from.

With a real S3 server; whole hosts are lost in faults/hosts.py.
"""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from s3fs import S3FileSystem

from app.datasets.models import Dataset
from app.db import Database
from app.queue import JobQueue
from app.runs.states import RunState
from app.settings import Settings
from app.storage import Store, StoreUnavailable
from kdcore.config import RUN_CONFIG
from kdcore.errors import DataError
from tests.app.runs.test_states import add_run, row
from tests.fixtures.orphan_guard import OrphanGuard
from tests.fixtures.s3 import S3Server, running_s3
from tests.worker.test_supervisor import Script, messages, start, trainer, wait_for
from worker.checkpoint_copies import CheckpointCopier, fetch_newest
from worker.cleanup import Cleanup
from worker.heartbeat import Heartbeat
from worker.inputs import fetch_inputs
from worker.supervisor import Supervisor, Tools
from worker.workspace import Workspace

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
__all__ = ["trainer"]


@pytest.fixture(scope="module")
def _server(tmp_path_factory: pytest.TempPathFactory, _tether: OrphanGuard) -> Iterator[S3Server]:
    with running_s3(tmp_path_factory.mktemp("s3")) as server:
        _tether.hold(server.process.pid)
        yield server


@pytest.fixture
def here(
    settings: Settings, _server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Settings:
    """The settings of one host."""
    for name, value in _server.environment().items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()
    return settings.model_copy(
        update={"storage_url": f"{_server.url}/{tmp_path.name}", "mirror_every_s": 0.0}
    )


@pytest.fixture
def there(here: Settings, tmp_path: Path) -> Settings:
    """The settings of another host."""
    return here.model_copy(update={"data_dir": tmp_path / "there"})


@pytest.fixture
def store(here: Settings) -> Store:
    return Store(here)


def save(workspace: Workspace, step: int, text: str = "weights") -> str:
    """A checkpoint as the trainer saves one; its path in the run's folder."""
    path = f"checkpoints/step-{step:08d}"
    folder = workspace.folder / path
    folder.mkdir(parents=True)
    (folder / "state.json").write_text(f"{text} {step}")
    sha256 = hashlib.sha256((folder / "state.json").read_bytes()).hexdigest()
    entry = {"path": "state.json", "size_bytes": 1, "sha256": sha256}
    entry["size_bytes"] = (folder / "state.json").stat().st_size
    (folder / "manifest.json").write_text(json.dumps({"files": [entry]}))
    return path


def copy(store: Store, workspace: Workspace, *steps: int) -> None:
    copier = CheckpointCopier(store, workspace, every_s=0)
    for step in steps:
        copier.offer(save(workspace, step))
        copier.flush(30)
    copier.close()


def test_the_newest_sound_copy_is_fetched_and_the_last_two_are_kept(
    here: Settings, there: Settings, store: Store, tmp_path: Path
) -> None:
    ours = Workspace.of(here, "r00000000001", 1)
    ours.create()
    (ours.folder / "start_eval.json").write_text('{"loss": 6.5}')
    copy(store, ours, 1, 2, 3)
    steps = {key.split("/")[3] for key in store.keys("work/r00000000001")}
    assert steps == {"step-00000002", "step-00000003"}
    theirs = Workspace.of(there, "r00000000001", 2)
    theirs.create()
    assert fetch_newest(store, "r00000000001", theirs) == (3, [])
    state = theirs.checkpoints / "step-00000003" / "state.json"
    assert state.read_text() == "weights 3"
    assert (theirs.folder / "start_eval.json").read_text() == '{"loss": 6.5}'
    # A bit of the newest one is flipped, and of a newer one only half has arrived.
    (tmp_path / "bad").write_text("weights 7")
    key = "work/r00000000001/1/step-00000003/checkpoints/step-00000003/state.json"
    store.put_file(tmp_path / "bad", key)
    store.put_file(tmp_path / "bad", "work/r00000000001/1/step-00000004/checkpoints/x")
    third = Workspace.of(there, "r00000000001", 3)
    third.create(oldest=3)
    step, refused = fetch_newest(store, "r00000000001", third)
    assert step == 2
    assert "copy of step 3 is damaged" in refused[0]
    assert [path.name for path in third.checkpoints.iterdir()] == ["step-00000002"]


def test_a_damaged_checkpoint_is_not_copied(here: Settings, store: Store) -> None:
    workspace = Workspace.of(here, "r00000000002", 1)
    path = save(workspace, 5)
    (workspace.folder / path / "state.json").write_text("weights 6")
    copier = CheckpointCopier(store, workspace, every_s=0)
    copier.offer(path)
    copier.flush(30)
    copier.close()
    assert store.keys("work/r00000000002") == []


def test_an_attempt_that_lost_its_run_removes_nothing_of_the_one_that_took_over(
    here: Settings, there: Settings, store: Store
) -> None:
    copy(store, Workspace.of(there, "r00000000003", 2), 10, 11)
    copy(store, Workspace.of(here, "r00000000003", 1), 7, 8, 12)
    left = sorted({tuple(key.split("/")[2:4]) for key in store.keys("work/r00000000003")})
    assert left == [
        ("1", "step-00000008"),
        ("1", "step-00000012"),
        ("2", "step-00000010"),
        ("2", "step-00000011"),
    ]


def test_on_a_disk_that_hosts_share_nothing_is_copied(settings: Settings) -> None:
    store, workspace = Store(settings), Workspace.of(settings, "r00000000004", 1)
    copy(store, workspace, 1)
    assert not (settings.data_dir / "artifacts").exists()
    assert not any(thread.name == "checkpoint-copier" for thread in threading.enumerate())


@pytest.fixture
def make_tools(database: Database) -> Iterator[Callable[[Settings], Tools]]:
    """Makes what the worker of a host works with."""
    made: list[Tools] = []

    def make(settings: Settings) -> Tools:
        changed = settings.model_copy(update={"heartbeat_s": 0.2, "stop_grace_s": 20.0})
        heartbeat = Heartbeat(database, "w00000000001", changed)
        heartbeat.start()
        made.append(
            Tools(
                settings=changed,
                db=database,
                store=Store(changed),
                job_queue=JobQueue(changed),
                heartbeat=heartbeat,
                worker_id="w00000000001",
                device="cpu",
                leave=threading.Event(),
                check_device=lambda: None,
            )
        )
        return made[-1]

    yield make
    for tools in made:
        tools.heartbeat.stop()
        tools.job_queue.close()


SAVES = """
import hashlib
def save(step):
    folder = f"{sys.argv[1]}/checkpoints/step-{step:08d}"
    os.makedirs(folder)
    open(folder + "/state.json", "w").write(str(step))
    entry = {"path": "state.json", "size_bytes": len(str(step)),
             "sha256": hashlib.sha256(str(step).encode()).hexdigest()}
    json.dump({"files": [entry]}, open(folder + "/manifest.json", "w"))
    say("metrics", step=step, values={"loss": float(step)})
    say("checkpoint", step=step, path=f"checkpoints/step-{step:08d}")
"""


TELLS = """
say("log", level="info", message=str(os.listdir(sys.argv[1] + "/checkpoints")))
result()
"""
MakeTools = Callable[[Settings], Tools]


def test_a_worker_that_leaves_hands_its_last_checkpoint_to_another_host(
    here: Settings, there: Settings, make_tools: MakeTools, database: Database, trainer: Script
) -> None:
    trainer(
        SAVES
        + """
def leave(*_):
    save(9); say("stopped", step=9); os._exit(75)
signal.signal(signal.SIGTERM, leave)
save(4)
say("log", level="info", message="ready")
time.sleep(600)
"""
    )
    ours, theirs = make_tools(here), make_tools(there)
    run_id = add_run(database)
    thread = start(ours, run_id)
    wait_for(lambda: "ready" in messages(database), 60)
    ours.leave.set()
    thread.join(60)
    assert row(database, run_id).state == RunState.QUEUED
    trainer(TELLS)
    Supervisor(theirs).answer(run_id)
    run = row(database, run_id)
    assert (run.state, run.error_message) == (RunState.SUCCEEDED, None)
    assert "['step-00000009']" in messages(database)
    assert theirs.store.keys("work") == [], "an ended run leaves no copies"
    assert not (there.work_dir / run_id).exists()
    assert (here.work_dir / run_id).exists()
    Cleanup(here, database, ours.store).clean_up()
    assert not (here.work_dir / run_id).exists()


def test_checkpoints_whose_points_can_no_longer_be_recorded_are_not_resumed_from(
    here: Settings, store: Store, make_tools: MakeTools, database: Database, trainer: Script
) -> None:
    """Attempt 1 was cut off here at update 30, attempt 2 elsewhere went on from its copy of 20 and
    was lost: the points up to 30 are in a file that is not read any more."""
    run_id = add_run(
        database, attempt=2, tail_attempt=2, checkpoint_step=24, claimed_checkpoint_step=20
    )
    first = Workspace.of(here, run_id, 1)
    copy(store, first, 20)
    save(first, 30)
    trainer(TELLS)
    Supervisor(make_tools(here)).answer(run_id)
    run = row(database, run_id)
    assert run.state == RunState.SUCCEEDED, run.error_message
    assert "['step-00000020']" in messages(database)
    assert (run.checkpoint_step, run.claimed_checkpoint_step) == (20, 20)


def test_without_a_copy_the_run_restarts_and_says_so(
    there: Settings, make_tools: MakeTools, database: Database, trainer: Script
) -> None:
    run_id = add_run(
        database, attempt=1, tail_attempt=1, checkpoint_step=24, claimed_checkpoint_step=20
    )
    trainer("assert not os.path.exists(sys.argv[1] + '/checkpoints'); result()")
    Supervisor(make_tools(there)).answer(run_id)
    run = row(database, run_id)
    assert (run.state, run.error_message) == (RunState.SUCCEEDED, None)
    assert (run.checkpoint_step, run.claimed_checkpoint_step) == (None, None)
    assert "training starts over" in messages(database)


def test_a_result_waits_for_a_store_that_is_away(
    here: Settings,
    make_tools: MakeTools,
    database: Database,
    trainer: Script,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainer("result()")
    tools = make_tools(here)
    real, refused = Store.put_file, []

    def put_file(self: Store, local: Path, key: str) -> None:
        if len(refused) < 2:
            refused.append(key)
            raise StoreUnavailable("no answer")
        real(self, local, key)

    monkeypatch.setattr(Store, "put_file", put_file)
    run_id = add_run(database)
    Supervisor(tools).answer(run_id)
    run = row(database, run_id)
    assert (run.state, run.attempt, len(refused)) == (RunState.SUCCEEDED, 1, 2)


def test_an_upload_is_fetched_once_for_each_host_and_verified(
    here: Settings, there: Settings, store: Store, database: Database, tmp_path: Path
) -> None:
    data = b"a line of text\n" * 100
    (tmp_path / "upload").write_bytes(data)
    with database.write() as session:
        session.add(
            Dataset(
                id="d00000000001",
                name="text",
                kind="text",
                format="txt",
                size_bytes=len(data),
                sha256=hashlib.sha256(data).hexdigest(),
            )
        )
    key = "uploads/d00000000001/data.txt"
    store.put_file(tmp_path / "upload", key)
    corpus = {"source": "upload", "dataset_id": "d00000000001"}
    config = RUN_CONFIG.validate_python({"kind": "teacher", "corpus": corpus})

    def fetch(attempt: int) -> Path:
        workspace = Workspace.of(there, "r00000000009", attempt)
        workspace.create()
        found = fetch_inputs(config, workspace, database, there, store).corpus
        assert found is not None
        return Path(found.path)

    assert fetch(1).read_bytes() == data
    store.delete_prefix("uploads")
    assert fetch(2).read_bytes() == data, "from the cache"
    cached = next((there.cache_dir / "uploads").iterdir())
    cached.unlink()
    cached.write_bytes(b"rubbish")
    (tmp_path / "other").write_bytes(b"other")
    store.put_file(tmp_path / "other", key)
    with pytest.raises(DataError, match="damaged"):
        fetch(3)


def test_cleanup_keeps_what_runs_still_need(
    here: Settings, store: Store, database: Database, tmp_path: Path
) -> None:
    (tmp_path / "x").write_text("x")
    running = add_run(database, state=RunState.RUNNING, attempt=3, tail_attempt=2)
    failed = add_run(database, state=RunState.FAILED)
    done = add_run(database, state=RunState.SUCCEEDED)
    for run_id in (running, failed, done, "gone00000000"):
        store.put_file(tmp_path / "x", f"work/{run_id}/1/step-00000001/mirror.json")
        for attempt in (1, 2, 3):
            Workspace.of(here, run_id, attempt).create()
    Cleanup(here, database, store).clean_up()
    assert store.names("work") == [running]
    kept = sorted(str(p.relative_to(here.work_dir)) for p in here.work_dir.glob("*/*"))
    assert kept == sorted(
        [f"{failed}/attempt-{n}" for n in (1, 2, 3)] + [f"{running}/attempt-{n}" for n in (2, 3)]
    )


def test_cleanup_of_a_single_host_keeps_unknown_files(
    settings: Settings, database: Database
) -> None:
    """A run that was taken back, and then cancelled while it was queued, leaves its folder."""
    cancelled = add_run(database, state=RunState.CANCELLED, attempt=2)
    queued = add_run(database, state=RunState.QUEUED, attempt=2)
    for run_id in (cancelled, queued, "gone00000000"):
        Workspace.of(settings, run_id, 1).create()
    Cleanup(settings, database, Store(settings)).clean_up()
    assert {path.name for path in settings.work_dir.iterdir()} == {queued, "gone00000000"}
