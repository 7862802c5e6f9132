"""What older releases wrote, opened by this one: databases, backups, files and checkpoints."""

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, Table, delete, insert, select, update

from app.backup.manifest import BackupManifest, read_manifest
from app.backup.restore import check_backup, contents_of, restore_backup
from app.backup.rows import tables_of
from app.db import Database
from app.migrations import current_revision, head_revision, upgrade
from app.runs.models import MetricPoint, Run
from app.runs.states import FINAL, RunState
from app.settings import Settings
from faults.installation import wait_for
from tests.app.conftest import serve
from tests.conftest import DATABASES
from tests.fixtures.postgres import PostgresServer
from tests.fixtures.progress import NullProgress
from tests.worker.test_real_worker import worker_process

HERE = Path(__file__).parents[1] / "fixtures" / "releases"
RELEASES = sorted(path.parent for path in HERE.glob("*/halflayer.db"))
STOPPED = "stopped half way"
RESUMED_S = 280.0


@pytest.fixture(params=RELEASES, ids=lambda path: path.name)
def release(request: pytest.FixtureRequest) -> Path:
    """What one release left behind."""
    folder: Path = request.param
    return folder


def in_place(release: Path, settings: Settings) -> None:
    """The installation as the release left it."""
    for name in ("uploads", "artifacts", "work"):
        shutil.copytree(release / "backup" / name, settings.data_dir / name)
    shutil.copy(release / "halflayer.db", settings.data_dir)


def restored(release: Path, settings: Settings) -> None:
    """The release's backup, brought back by this one."""
    manifest = check_backup(release / "backup", NullProgress())
    found = contents_of(settings, manifest)
    assert found.is_empty
    restore_backup(settings, release / "backup", manifest, found, NullProgress())


@pytest.fixture(params=DATABASES)
def opened(
    request: pytest.FixtureRequest, release: Path, broker_url: str, tmp_path: Path
) -> Iterator[Settings]:
    """The installation of an older release after this one's `halflayer migrate`."""
    settings = Settings(data_dir=tmp_path / "data", broker_url=broker_url)
    if request.param == "sqlite":
        in_place(release, settings)
        assert current_revision(settings.resolved_database_url) != head_revision()
        upgrade(settings.resolved_database_url)
        yield settings
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    server.execute("CREATE DATABASE older")
    settings = settings.model_copy(update={"database_url": server.url("older")})
    restored(release, settings)
    yield settings
    server.execute("DROP DATABASE older WITH (FORCE)")


def test_there_is_a_release_to_open() -> None:
    assert RELEASES


def test_its_runs_are_served_and_its_files_are_the_same(opened: Settings, release: Path) -> None:
    manifest: BackupManifest = read_manifest(release / "backup")
    published = {file.path: file.sha256 for file in manifest.below("artifacts")}
    for api in serve(opened):
        runs = api.get("/runs").json()["items"]
        states = {run["kind"]: run["state"] for run in runs if run["name"] != STOPPED}
        assert states == dict.fromkeys(("teacher", "prune", "distill"), "succeeded")
        assert [run["state"] for run in runs if run["name"] == STOPPED] == ["queued"]
        downloaded = 0
        for run in runs:
            assert api.get(f"/runs/{run['id']}/report").status_code == 200
            assert api.get(f"/runs/{run['id']}/log").json()["items"]
            if run["kind"] != "prune":
                curves = api.get(f"/runs/{run['id']}/metrics").json()["series"]
                assert "loss" in {curve["name"] for curve in curves}
            for file in api.get(f"/runs/{run['id']}/artifacts").json()["items"]:
                body = api.get(f"/runs/{run['id']}/artifacts/{file['path']}").content
                sha256 = hashlib.sha256(body).hexdigest()
                assert sha256 == file["sha256"]
                assert sha256 in published.values()
                downloaded += 1
        assert downloaded == len(published) > 10
        assert api.get("/datasets").json()["total"] == 1
        # And it goes on: what it made can be started from.
        teacher = next(run["id"] for run in runs if run["kind"] == "teacher" and run["result"])
        config = {"kind": "prune", "teacher": {"source": "run", "run_id": teacher}}
        assert api.post("/runs", {"config": config}).status_code == 201


def test_the_older_release_goes_on_working_on_the_newer_tables(
    opened: Settings, release: Path
) -> None:
    """Its statements, which know its own columns only, until its processes are exchanged."""
    columns = {table.name: table.columns for table in read_manifest(release / "backup").tables}
    assert len(columns) > 5
    database = Database(opened.resolved_database_url)
    with database.engine.connect() as connection:
        for table in tables_of(connection, columns):
            _use(connection, table, columns[table.name])
        connection.rollback()
    database.close()


def _use(connection: Connection, table: Table, columns: list[str]) -> None:
    """Insert, read, change and remove a row, as code does that knows these columns only."""
    known = [table.columns[name] for name in columns]
    row = dict(connection.execute(select(*known).limit(1)).mappings().one())
    key = list(table.primary_key.columns)[-1]
    added = row | {key.name: "another" if key.type.python_type is str else 10**9}
    if "sha256" in row:
        added["sha256"] = "another"
    ours = key == added[key.name]
    connection.execute(insert(table).values(**added))
    assert dict(connection.execute(select(*known).where(ours)).mappings().one()) == added
    changed = {name: value for name, value in added.items() if not table.columns[name].primary_key}
    if changed:
        connection.execute(update(table).where(ours).values(**changed))
    assert connection.execute(delete(table).where(ours)).rowcount == 1


@pytest.mark.timeout(600)
def test_it_resumes_from_its_checkpoint(release: Path, broker_url: str, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data", broker_url=broker_url)
    in_place(release, settings)
    upgrade(settings.resolved_database_url)
    settings = settings.model_copy(update={"database_url": settings.resolved_database_url})
    database = Database(settings.resolved_database_url)

    def run() -> Run:
        with database.read() as session:
            return session.scalars(select(Run).where(Run.name == STOPPED)).one()

    checkpoint = run().checkpoint_step
    assert checkpoint
    with worker_process(settings):
        wait_for(lambda: run().state in FINAL, RESUMED_S, "the older release's run")
    assert (run().state, run().attempt) == (RunState.SUCCEEDED, 2), run().error_message
    with database.read() as session:
        steps = select(MetricPoint.step, MetricPoint.attempt).where(
            MetricPoint.run_id == run().id, MetricPoint.name == "loss"
        )
        found = session.execute(steps).all()
    database.close()
    assert min(step for step, attempt in found if attempt == 2) == checkpoint + 1
    total = max(step for step, _ in found)
    assert {step for step, _ in found} == set(range(1, total + 1))
