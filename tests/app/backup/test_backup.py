"""Backups hold everything, say what they lack, and come back the same on either database."""

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import Result
from sqlalchemy import insert, select
from typer.testing import CliRunner

from app.auth.service import create_token
from app.backup.create import create_backup
from app.backup.manifest import BackupError, BackupManifest, read_manifest
from app.backup.restore import check_backup, contents_of, restore_backup
from app.backup.rows import digest_of, tables_of
from app.cli import main as cli
from app.datasets.models import Dataset
from app.db import Base, Database
from app.local.stack import StackError, only_one
from app.migrations import head_revision, upgrade
from app.runs.models import Artifact, LogLine, MetricPoint, Run, RunInput
from app.runs.states import RunState
from app.settings import Settings
from app.storage import Store
from app.workers.models import Worker
from kdcore.config import TeacherConfig
from kdcore.files import noop
from tests.app.test_s3_storage import _server, s3  # noqa: F401 - fixtures
from tests.conftest import DATABASES
from tests.fixtures.postgres import PostgresServer
from tests.fixtures.progress import NullProgress
from tests.fixtures.s3 import S3Server
from worker.checkpoint_copies import CheckpointCopier, fetch_newest
from worker.workspace import Workspace

POINTS = 2500
TEXT = b"the fox jumps\n" * 1000
WEIGHTS = bytes(range(256)) * 5000
NAME = 'Ünïcode \\ "quotes"\n\t\u2028 \U0001f98a'


@pytest.fixture
def source(empty_database_url: str, tmp_path: Path) -> Settings:
    """An installation with something of everything, on each kind of database."""
    upgrade(empty_database_url)
    settings = Settings(data_dir=tmp_path / "source", database_url=empty_database_url)
    fill(settings)
    return settings


@pytest.fixture(params=DATABASES)
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    """A new installation, on each kind of database, whatever the source is on."""
    settings = Settings(data_dir=tmp_path / "target")
    if request.param == "sqlite":
        yield settings
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    server.execute("CREATE DATABASE restored")
    yield settings.model_copy(update={"database_url": server.url("restored")})
    server.execute("DROP DATABASE restored WITH (FORCE)")


@pytest.fixture
def small(tmp_path: Path) -> Settings:
    """An installation on SQLite, for what no database can change."""
    settings = Settings(data_dir=tmp_path / "small")
    upgrade(settings.resolved_database_url)
    fill(settings)
    return settings


@pytest.fixture
def fresh(tmp_path: Path) -> Settings:
    """A new installation on SQLite."""
    return Settings(data_dir=tmp_path / "fresh")


def fill(settings: Settings) -> None:
    """A succeeded run with files, a running one with a checkpoint, one that is being cancelled."""
    config = TeacherConfig().model_dump(mode="json")
    made = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    sha256 = hashlib.sha256(TEXT).hexdigest()
    done = Run(
        id="done00000000",
        name=NAME,
        kind="teacher",
        state=RunState.SUCCEEDED,
        config=config | {"note": "\ud800 half a pair", "tiny": 5e-324, "third": 1 / 3},
        result={"eval_loss": 0.1 + 0.2, "steps": 10},
        attempt=1,
        created_at=made,
    )
    running = Run(
        id="running00000",
        name="running",
        kind="teacher",
        state=RunState.RUNNING,
        config=config,
        attempt=2,
        tail_attempt=2,
        tail_offset=20,
        attempts_without_progress=2,
        inputs=[RunInput(role="model", input_run_id=done.id)],
    )
    cancelling = Run(
        id="cancelling00", name="c", kind="teacher", state=RunState.CANCELLING, config=config,
        attempt=1, cancel_requested=True,
    )  # fmt: skip
    waiting = Run(
        id="waiting00000", name="w", kind="prune", state=RunState.WAITING, config=config,
        inputs=[RunInput(role="teacher", input_run_id=cancelling.id)],
    )  # fmt: skip
    database = Database(settings.resolved_database_url)
    with database.write() as session:
        session.add_all([done, cancelling])
        session.flush()
        session.add_all([running, waiting])
        session.flush()
        create_token(session, "api", "mine", "admin")
        session.add(Worker(id="worker000000", hostname="h", pid=1, device="cpu", device_name="d",
                           version="0"))  # fmt: skip
        session.add(Dataset(id="dataset00000", name="text", kind="text", format="txt",
                            size_bytes=len(TEXT), documents=1000, sha256=sha256))  # fmt: skip
        session.add(LogLine(run_id=done.id, seq=1, attempt=1, time=made, level="info",
                            message=NAME))  # fmt: skip
        points = [
            {"run_id": run.id, "seq": i, "name": "loss", "attempt": 1, "step": i,
             "value": None if i % 100 == 7 else 1 / (i + 1)}
            for run in (done, running) for i in range(POINTS)
        ]  # fmt: skip
        session.execute(insert(MetricPoint), points)
    database.close()
    add_artifact(settings, done.id, "model.safetensors", WEIGHTS)
    upload = settings.uploads_dir / "dataset00000" / "data.txt"
    upload.parent.mkdir(parents=True)
    upload.write_bytes(TEXT)
    work = Workspace.of(settings, running.id, 2)
    for step in (1, 2):
        add_checkpoint(work, step)
    work.events.write_text('{"type": "one"}\n' * 3 + '{"type": "cut')
    work.stderr.write_text("words\n")


def add_artifact(settings: Settings, run_id: str, path: str, content: bytes) -> None:
    key = f"{run_id}/1/{path}"
    local = settings.data_dir / "incoming"
    local.parent.mkdir(parents=True, exist_ok=True)
    local.write_bytes(content)
    Store(settings).put_file(local, key)
    local.unlink()
    database = Database(settings.resolved_database_url)
    with database.write() as session:
        session.add(Artifact(run_id=run_id, path=path, attempt=1, size_bytes=len(content),
                             sha256=hashlib.sha256(content).hexdigest(),
                             storage_key=key))  # fmt: skip
    database.close()


def add_checkpoint(work: Workspace, step: int) -> Path:
    folder = work.checkpoints / f"step-{step:08d}"
    folder.mkdir(parents=True)
    content = f"state of {step}".encode()
    (folder / "state.json").write_bytes(content)
    entry = {
        "path": "state.json",
        "size_bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    (folder / "manifest.json").write_text(json.dumps({"files": [entry]}))
    return folder


def back_up(settings: Settings, tmp_path: Path) -> tuple[Path, BackupManifest]:
    folder = tmp_path / "backup"
    return folder, create_backup(settings, folder, NullProgress())


def restore(settings: Settings, folder: Path) -> list[str]:
    manifest = check_backup(folder, NullProgress())
    found = contents_of(settings, manifest)
    assert found.is_empty
    return restore_backup(settings, folder, manifest, found, NullProgress())


def run_of(settings: Settings, run_id: str) -> Run:
    database = Database(settings.resolved_database_url)
    with database.read() as session:
        run = session.get_one(Run, run_id)
    database.close()
    return run


def test_what_is_restored_is_what_was_saved(
    source: Settings, target: Settings, tmp_path: Path
) -> None:
    folder, manifest = back_up(source, tmp_path)
    assert manifest.left_out == []
    assert {t.name: t.rows for t in manifest.tables}["metric_points"] == 2 * POINTS
    assert set(Base.metadata.tables) == {table.name for table in manifest.tables}

    queued = restore(target, folder)

    assert queued == ["running00000"]
    database = Database(target.resolved_database_url)
    with database.read() as session:
        done = session.get_one(Run, "done00000000")
        assert done.name == NAME
        assert done.config["note"] == "\ud800 half a pair"
        assert (done.config["tiny"], done.config["third"]) == (5e-324, 1 / 3)
        assert done.result == {"eval_loss": 0.1 + 0.2, "steps": 10}
        assert done.created_at == datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
        assert done.environment is None
        values = session.scalars(
            select(MetricPoint.value).where(MetricPoint.run_id == done.id).order_by(MetricPoint.seq)
        ).all()
        assert values == [None if i % 100 == 7 else 1 / (i + 1) for i in range(POINTS)]
    saved = {table.name: table for table in manifest.tables}
    unchanged = [name for name in saved if name != "runs"]  # some runs changed their state
    with database.snapshot() as connection:
        for table in tables_of(connection, unchanged):
            wanted = saved[table.name]
            found = digest_of(connection, table, wanted.columns, noop)
            assert (table.name, found) == (table.name, wanted.digest)
    database.close()
    assert (target.uploads_dir / "dataset00000" / "data.txt").read_bytes() == TEXT
    with Store(target).open("done00000000/1/model.safetensors") as file:
        assert file.read() == WEIGHTS


def test_unfinished_runs_resume_from_their_checkpoint(
    source: Settings, target: Settings, tmp_path: Path
) -> None:
    folder, _ = back_up(source, tmp_path)
    restore(target, folder)

    running = run_of(target, "running00000")
    assert (running.state, running.attempt) == (RunState.QUEUED, 2)
    assert running.attempts_without_progress == 2  # a restore counts against no run
    old = Workspace.of(target, "running00000", 2)
    assert [path.name for path in old.checkpoints.iterdir()] == ["step-00000002"]
    assert old.events.read_text() == '{"type": "one"}\n' * 3
    new = Workspace.of(target, "running00000", 3)
    new.create()
    assert (new.checkpoints / "step-00000002" / "state.json").read_text() == "state of 2"
    assert run_of(target, "cancelling00").state == RunState.CANCELLED
    assert run_of(target, "waiting00000").state == RunState.SKIPPED


def test_a_backup_of_a_database_at_work_is_of_one_moment(source: Settings, tmp_path: Path) -> None:
    """A writer adds a run and a point in one transaction, over and over: never one without."""
    config = TeacherConfig().model_dump(mode="json")
    stop = threading.Event()
    written = 0

    def write() -> None:
        nonlocal written
        database = Database(source.resolved_database_url)
        while not stop.is_set():
            run_id = f"{written:012d}"
            with database.write() as session:
                session.add(Run(id=run_id, name="n", kind="teacher", state="queued", config=config))
                session.flush()
                session.add(
                    MetricPoint(run_id=run_id, seq=1, name="loss", attempt=1, step=1, value=1.0)
                )
            written += 1
        database.close()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        found = []
        for number in range(5):
            before = written
            manifest = create_backup(source, tmp_path / f"backup-{number}", NullProgress())
            rows = {table.name: table.rows for table in manifest.tables}
            found.append(rows["runs"] - 4)
            assert rows["metric_points"] - 2 * POINTS == found[-1]
            assert found[-1] >= before
    finally:
        stop.set()
        writer.join()
    assert found[-1] > found[0]


def test_a_flipped_bit_is_refused_by_name(small: Settings, fresh: Settings, tmp_path: Path) -> None:
    folder, manifest = back_up(small, tmp_path)
    names = [file.path for file in manifest.files if file.size_bytes]
    assert len(names) > 10
    for name in [*names, "manifest.json"]:
        path = folder / name
        whole = path.read_bytes()
        broken = bytearray(whole)
        broken[len(broken) // 2] ^= 4
        path.write_bytes(broken)
        with pytest.raises(BackupError, match="damaged") as refused:
            check_backup(folder, NullProgress())
        assert name in str(refused.value)
        path.write_bytes(whole)
    check_backup(folder, NullProgress())


def test_half_a_backup_is_refused(small: Settings, tmp_path: Path) -> None:
    folder, manifest = back_up(small, tmp_path)
    biggest = max(manifest.files, key=lambda file: file.size_bytes)
    path = folder / biggest.path
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BackupError, match=f"{biggest.path} has {biggest.size_bytes - 1} bytes"):
        check_backup(folder, NullProgress())
    path.unlink()
    with pytest.raises(BackupError, match=f"{biggest.path} cannot be read"):
        check_backup(folder, NullProgress())
    (folder / "manifest.json").unlink()
    with pytest.raises(BackupError, match="no finished backup"):
        check_backup(folder, NullProgress())


def test_missing_or_damaged_files_are_reported(small: Settings, tmp_path: Path) -> None:
    Path(small.data_dir / "artifacts/done00000000/1/model.safetensors").unlink()
    (small.uploads_dir / "dataset00000" / "data.txt").write_bytes(TEXT[:-1] + b"?")
    folder, manifest = back_up(small, tmp_path)
    assert {each.path: each.why.split(":")[0] for each in manifest.left_out} == {
        "artifacts/done00000000/1/model.safetensors": "it does not exist",
        "uploads/dataset00000/data.txt": "it is damaged",
    }
    check_backup(folder, NullProgress())
    assert not (folder / "uploads/dataset00000/data.txt").exists()


def test_a_damaged_checkpoint_gives_way_to_the_one_before(small: Settings, tmp_path: Path) -> None:
    newest = Workspace.of(small, "running00000", 2).checkpoints / "step-00000002"
    (newest / "state.json").write_text("state of 3")
    _, manifest = back_up(small, tmp_path)
    assert {
        file.path.split("/")[4]
        for file in manifest.below("work/running00000/attempt-2/checkpoints")
    } == {"step-00000001"}


def test_nothing_is_left_of_a_backup_that_failed(small: Settings, tmp_path: Path) -> None:
    class Breaks(NullProgress):
        def phase(self, what: str, total: int, unit: str):
            if what == "Files":
                raise OSError(28, "No space left on device")
            return super().phase(what, total, unit)

    place = tmp_path / "place"
    with pytest.raises(BackupError, match="no room for the backup"):
        create_backup(small, place / "backup", Breaks())
    assert list(place.iterdir()) == []
    assert not (small.data_dir / ".backup").exists()


def test_a_backup_never_replaces_anything(small: Settings, tmp_path: Path) -> None:
    folder, _ = back_up(small, tmp_path)
    with pytest.raises(BackupError, match="is there already"):
        create_backup(small, folder, NullProgress())


def test_nothing_to_save_makes_nothing(fresh: Settings, tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="has no tables"):
        create_backup(fresh, tmp_path / "backup", NullProgress())
    assert not fresh.data_dir.exists()


def test_what_is_there_counts(small: Settings, tmp_path: Path) -> None:
    _, manifest = back_up(small, tmp_path)
    found = contents_of(small, manifest)
    assert not found.is_empty
    assert (len(found.runs), found.datasets, found.files) == (4, ["dataset00000"], True)


def test_force_replaces_the_installation(source: Settings, tmp_path: Path) -> None:
    folder, manifest = back_up(source, tmp_path)
    database = Database(source.resolved_database_url)
    with database.write() as session:
        session.add(Run(id="later0000000", name="n", kind="teacher", state="succeeded", config={}))
    database.close()
    add_artifact(source, "later0000000", "file", b"later")
    found = contents_of(source, manifest)
    restore_backup(source, folder, manifest, found, NullProgress())
    assert sorted(contents_of(source, manifest).runs) == sorted(set(found.runs) - {"later0000000"})
    assert not (source.data_dir / "artifacts" / "later0000000").exists()


def test_a_restore_that_was_cut_short_can_be_repeated(
    source: Settings, target: Settings, tmp_path: Path
) -> None:
    folder, manifest = back_up(source, tmp_path)

    class Cut(NullProgress):
        def phase(self, what: str, total: int, unit: str):
            def advance(_amount: int) -> None:
                if what == "Rows":
                    raise KeyboardInterrupt

            return advance

    with pytest.raises(KeyboardInterrupt):
        restore_backup(target, folder, manifest, contents_of(target, manifest), Cut())
    assert contents_of(target, manifest).is_empty  # of this backup
    assert restore(target, folder) == ["running00000"]


def test_a_newer_schema_is_refused(small: Settings, fresh: Settings, tmp_path: Path) -> None:
    _, manifest = back_up(small, tmp_path)
    newer = manifest.model_copy(update={"revision": "9999"})
    with pytest.raises(BackupError, match="does not know"):
        restore_backup(fresh, tmp_path, newer, contents_of(fresh, newer), NullProgress())
    assert manifest.revision == head_revision()


def test_a_path_that_climbs_is_refused(small: Settings, tmp_path: Path) -> None:
    folder, _ = back_up(small, tmp_path)
    text = (folder / "manifest.json").read_text()
    text = text.replace("uploads/dataset00000/data.txt", "uploads/../../../data.txt")
    (folder / "manifest.json").write_text(text)
    checksum = hashlib.sha256(text.encode()).hexdigest()
    (folder / "manifest.json.sha256").write_text(f"{checksum}  manifest.json\n")
    with pytest.raises(BackupError, match="not a Halflayer manifest"):
        read_manifest(folder)


def test_the_commands(small: Settings, fresh: Settings, tmp_path: Path) -> None:
    def command(*words: str | Path, input: str | None = None) -> Result:
        return CliRunner().invoke(cli.app, [str(word) for word in words], input=input)

    folder = tmp_path / "backup"
    at, to = (["--data-dir", each.data_dir] for each in (small, fresh))
    assert command("backup", folder, *at).exit_code == 0
    assert command("restore", folder, "--check", *to).exit_code == 0
    assert command("restore", folder, *to).exit_code == 0
    assert run_of(fresh, "done00000000").name == NAME

    refused = command("restore", folder, *to)
    assert isinstance(refused.exception, BackupError)
    assert "4 runs and 1 datasets and files" in str(refused.exception)
    assert command("restore", folder, "--force", *to, input="n\n").exit_code == 1
    with only_one(fresh.data_dir):  # as `halflayer up` does
        assert isinstance(command("restore", folder, "--force", *to).exception, StackError)
    assert run_of(fresh, "cancelling00").state == RunState.CANCELLED
    assert command("restore", folder, "--force", *to, input="y\n").exit_code == 0
    (small.uploads_dir / "dataset00000" / "data.txt").unlink()
    lacking = command("backup", tmp_path / "second", *at)
    assert lacking.exit_code == 1
    assert "not in the backup: uploads/dataset00000/data.txt, it does not exist" in lacking.output


def test_hosts_that_share_a_store(
    small: Settings,
    fresh: Settings,
    s3: S3Server,  # noqa: F811 - the fixture
    tmp_path: Path,
) -> None:
    """Uploads and copies of checkpoints are in the store then, and come back there."""
    here = Settings(data_dir=small.data_dir, storage_url=f"{s3.url}/{tmp_path.name}")
    store = Store(here)
    weights = "done00000000/1/model.safetensors"
    store.put_file(small.data_dir / "artifacts" / weights, weights)
    upload = small.uploads_dir / "dataset00000" / "data.txt"
    store.put_file(upload, "uploads/dataset00000/data.txt")
    upload.unlink()
    work = Workspace.of(here, "running00000", 2)
    copier = CheckpointCopier(store, work, every_s=0)
    copier.offer("checkpoints/step-00000002")
    copier.flush(60)
    copier.close()
    shutil.rmtree(work.run_dir)  # its host is another one

    folder, manifest = back_up(here, tmp_path)
    assert manifest.left_out == []
    assert len(manifest.below("copies/running00000/2/step-00000002")) == 3

    there = Settings(data_dir=fresh.data_dir, storage_url=f"{s3.url}/{tmp_path.name}-new")
    restore(there, folder)
    with Store(there).open("uploads/dataset00000/data.txt") as file:
        assert file.read() == TEXT
    resumed = Workspace.of(there, "running00000", 3)
    resumed.folder.mkdir(parents=True)
    assert fetch_newest(Store(there), "running00000", resumed) == (2, [])

    shared = Settings(data_dir=tmp_path / "shared")
    restore(shared, folder)
    assert (shared.uploads_dir / "dataset00000" / "data.txt").read_bytes() == TEXT
    resumed = Workspace.of(shared, "running00000", 3)
    assert resumed.create()
    assert (resumed.checkpoints / "step-00000002" / "state.json").read_text() == "state of 2"
