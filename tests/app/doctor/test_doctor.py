"""What the doctor says of installations that are broken in one way or another."""

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from app.db import Database, make_engine, utc_now
from app.doctor import machine, services
from app.doctor.examine import examine
from app.doctor.findings import Finding
from app.migrations import downgrade, upgrade
from app.runs.models import Run
from app.runs.states import RunState
from app.settings import Settings
from app.workers.models import Worker
from kdcore import __version__
from kdcore.config import TeacherConfig
from tests.app.conftest import NOBODY_LISTENS


def statuses(findings: Iterator[Finding]) -> dict[str, str]:
    """The worst that was said of each check."""
    order = ("skipped", "ok", "warning", "failed")
    worst: dict[str, str] = {}
    for finding in findings:
        assert finding.detail
        assert finding.remedy or finding.status in ("ok", "skipped")
        before = worst.get(finding.check, "skipped")
        worst[finding.check] = max(before, finding.status, key=order.index)
    return worst


def the_one(findings: Iterator[Finding], status: str) -> Finding:
    """The only finding of this status."""
    (found,) = [finding for finding in findings if finding.status == status]
    return found


def add_worker(db: Database, worker_id: str, **values: object) -> None:
    fixed = {"hostname": "here", "pid": 1, "device": "cpu", "device_name": "x"}
    with db.write() as session:
        session.add(Worker(id=worker_id, **fixed | {"version": __version__} | values))


@contextmanager
def beating(db: Database, worker_id: str) -> Iterator[None]:
    """A worker's beats, as its heart sends them."""
    end = threading.Event()

    def beat() -> None:
        while not end.wait(0.1):
            with db.write() as session:
                session.get_one(Worker, worker_id).beat += 1

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


# -------------------------------------------------------------------------------- this machine


@pytest.mark.integration
def test_torch_is_looked_at_in_a_process_of_its_own() -> None:
    found = list(machine.torch())
    assert [finding.check for finding in found] == ["torch", "devices"]
    assert "PyTorch 2" in found[0].detail


def test_a_data_folder_in_order_has_no_problems(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    found = statuses(machine.data_folder(Settings(data_dir=tmp_path)))
    assert found["data folder"] == "ok"
    assert "permissions" not in found


def test_a_data_folder_that_is_missing_or_open_to_all(tmp_path: Path) -> None:
    missing = the_one(machine.data_folder(Settings(data_dir=tmp_path / "no")), "failed")
    assert "HALFLAYER_DATA_DIR" in missing.remedy
    assert not (tmp_path / "no").exists()
    tmp_path.chmod(0o755)
    opened = machine.data_folder(Settings(data_dir=tmp_path))
    assert any("chmod go-rwx" in finding.remedy for finding in opened)


def test_a_data_folder_that_cannot_be_written() -> None:
    # Not even root may make a file there.
    found = the_one(machine.data_folder(Settings(data_dir=Path("/proc"))), "failed")
    assert "chown" in found.remedy


def test_a_page_that_is_not_built(tmp_path: Path) -> None:
    settings = Settings(frontend_dir=tmp_path)
    assert the_one(machine.page(settings), "failed").remedy == "make frontend"
    (tmp_path / "index.html").touch()
    assert statuses(machine.page(settings)) == {"page": "ok"}


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"allowed_hosts": ["train.example"]}, "HALFLAYER_SECURE_COOKIES"),
        ({"allowed_hosts": ["*"]}, "HALFLAYER_ALLOWED_HOSTS"),
        ({"host": "0.0.0.0"}, "HALFLAYER_PUBLIC_URL"),
        ({"heartbeat_s": 30}, "HALFLAYER_LEASE_S"),
    ],
)
def test_inconsistent_settings(given: dict[str, object], word: str) -> None:
    (finding,) = machine.inconsistent_settings(Settings(**given))
    assert word in finding.remedy


def test_settings_that_fit_and_one_that_is_misspelt(monkeypatch: pytest.MonkeyPatch) -> None:
    fits = Settings(allowed_hosts=["train.example"], secure_cookies=True)
    assert statuses(machine.inconsistent_settings(fits)) == {"settings": "ok"}
    monkeypatch.setenv("HALFLAYER_DATABSE_URL", "x")
    (finding,) = machine.inconsistent_settings(fits)
    assert "HALFLAYER_DATABSE_URL" in finding.detail


@pytest.mark.parametrize(
    ("name", "value"), [("HALFLAYER_PORT", "many"), ("HALFLAYER_ALLOWED_HOSTS", "a.example")]
)
def test_settings_that_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    found = the_one(examine(Settings), "failed")
    assert found.check == "settings"
    assert name.lower().removeprefix("halflayer_") in found.detail.lower()


# ------------------------------------------------------------------------------- database


def test_a_database_that_was_never_migrated(database_url: str) -> None:
    # The template has the tables, but no migration made them.
    found = the_one(services.database(Settings(database_url=database_url)), "failed")
    assert found.remedy == "halflayer migrate"


def test_a_migrated_database_and_an_older_one(empty_database_url: str) -> None:
    settings = Settings(database_url=empty_database_url)
    upgrade(empty_database_url)
    assert statuses(services.database(settings)) == {"database": "ok"}
    downgrade(empty_database_url, "0001")
    behind = the_one(services.database(settings), "failed")
    assert (behind.remedy, "0001" in behind.detail) == ("halflayer migrate", True)


def test_a_database_of_a_newer_version(sqlite_url: str) -> None:
    engine = make_engine(sqlite_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        connection.exec_driver_sql("INSERT INTO alembic_version VALUES ('9999')")
    engine.dispose()
    newer = the_one(services.database(Settings(database_url=sqlite_url)), "failed")
    assert "newer" in newer.detail


def test_an_unreachable_or_missing_database_is_reported(tmp_path: Path) -> None:
    away = Settings(database_url="postgresql://me:secret@127.0.0.1:1/x")
    found = the_one(services.database(away), "failed")
    assert "secret" not in found.detail
    assert "HALFLAYER_DATABASE_URL" in found.remedy
    missing = Settings(data_dir=tmp_path)
    assert the_one(services.database(missing), "failed").remedy == "halflayer migrate"
    assert not (tmp_path / "halflayer.db").exists()


def test_the_clocks_of_host_and_database(database: Database) -> None:
    assert statuses(services.clocks(database)) == {"clocks": "ok"}


# ------------------------------------------------------------------------- broker, API, store


def test_a_broker_that_answers_and_one_that_does_not(broker_url: str) -> None:
    assert statuses(services.broker(Settings(broker_url=broker_url), {})) == {"broker": "ok"}
    away = the_one(services.broker(Settings(broker_url=NOBODY_LISTENS), {}), "failed")
    assert "HALFLAYER_BROKER_URL" in away.remedy
    wrong = Settings(broker_url=broker_url.replace("redis://:", "redis://:not-"))
    refused = the_one(services.broker(wrong, {}), "failed")
    assert "not-" not in refused.detail


def test_the_embedded_broker_is_asked_through_the_api() -> None:
    settings = Settings()
    assert statuses(services.broker(settings, {"broker": "ok"})) == {"broker": "ok"}
    assert statuses(services.broker(settings, {"broker": "failed"})) == {"broker": "failed"}
    assert statuses(services.broker(settings, {})) == {"broker": "skipped"}


def test_no_api_answers() -> None:
    findings, says = services.api(Settings(server="http://127.0.0.1:1"))
    assert (findings[0].status, says) == ("failed", {})


def test_a_store_that_works_and_one_that_does_not(tmp_path: Path) -> None:
    assert statuses(services.store(Settings(data_dir=tmp_path))) == {"store": "ok"}
    assert list((tmp_path / "artifacts").iterdir()) == []
    (tmp_path / "file").touch()
    broken = Settings(storage_url=(tmp_path / "file" / "below").as_uri())
    assert "HALFLAYER_STORAGE_URL" in the_one(services.store(broken), "failed").remedy
    unknown = Settings(storage_url="gopher://store/x")
    assert the_one(services.store(unknown), "failed").check == "store"


# -------------------------------------------------------------------------- workers, leftovers


@pytest.fixture
def impatient(sqlite_settings: Settings) -> Settings:
    """Beats come quickly, so the doctor need not watch for long."""
    return sqlite_settings.model_copy(update={"heartbeat_s": 0.4})


@pytest.fixture
def db(impatient: Settings) -> Iterator[Database]:
    db = Database(impatient.resolved_database_url)
    yield db
    db.close()


def test_no_worker_at_all(impatient: Settings, db: Database) -> None:
    assert the_one(services.workers(impatient, db), "failed").remedy == "halflayer worker"


def test_a_live_worker_beside_a_lost_one(impatient: Settings, db: Database) -> None:
    add_worker(db, "alive")
    add_worker(db, "silent", hostname="gone")
    add_worker(db, "left", stopped_at=utc_now())
    with beating(db, "alive"):
        found = list(services.workers(impatient, db))
    assert [finding.status for finding in found] == ["ok", "warning"]
    assert "gone" in found[1].detail


def test_clock_skew_does_not_mark_workers_lost(impatient: Settings, db: Database) -> None:
    add_worker(db, "alive", seen_at=utc_now() - timedelta(hours=1))
    with beating(db, "alive"):
        assert statuses(services.workers(impatient, db)) == {"workers": "ok"}


def test_workers_that_do_not_belong_together(impatient: Settings, db: Database) -> None:
    add_worker(db, "one", version="0.0.1")
    add_worker(db, "two", hostname="there")
    with beating(db, "one"), beating(db, "two"):
        found = list(services.workers(impatient, db))
    assert [finding.status for finding in found] == ["ok", "warning", "failed"]
    assert "Postgres" in found[2].remedy


def test_work_folders_of_ended_runs(impatient: Settings, db: Database) -> None:
    config = TeacherConfig().model_dump(mode="json")
    states = (RunState.SUCCEEDED, RunState.FAILED, RunState.RUNNING)
    with db.write() as session:
        for state in states:
            session.add(Run(id=state[:12], name="x", kind="teacher", state=state, config=config))
    assert statuses(services.work_folders(impatient, db)) == {"work folders": "ok"}
    for name in (*states, "unknown"):
        folder = impatient.work_dir / name / "attempt-1"
        folder.mkdir(parents=True)
        (folder / "events.jsonl").write_text("{}\n")
    an_hour_ago = time.time() - 4000
    os.utime(impatient.work_dir / "unknown", (an_hour_ago, an_hour_ago))
    left = the_one(services.work_folders(impatient, db), "warning")
    folders = [str(impatient.work_dir / name) for name in ("succeeded", "unknown")]
    assert left.remedy == "rm -r " + " ".join(folders)


# ------------------------------------------------------------------------------- all of it


def test_one_broken_check_does_not_hide_the_others(
    impatient: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks() -> Iterator[Finding]:
        raise RuntimeError("oh")

    monkeypatch.setattr(machine, "torch", breaks)
    found = statuses(examine(lambda: impatient))
    assert found["torch"] == "failed"
    # It is neither migrated nor served.
    assert (found["database"], found["api"], found["workers"]) == ("failed", "failed", "skipped")
    assert set(found) == {
        *("python", "settings", "torch", "data folder", "permissions", "free space", "page"),
        *("leftovers", "api", "broker", "store", "database", "clocks", "workers", "work folders"),
    }


@pytest.mark.parametrize(
    ("device", "gpus", "reason"),
    [("auto", [], ""), ("cpu", [], ""), ("cuda", ["H100"], ""), ("cuda:1", [], "no GPU")],
)
def test_a_device_that_does_not_exist_is_named_before_a_worker_starts(
    device: str, gpus: list[str], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = subprocess.CompletedProcess([], 0, json.dumps(["2.13", gpus]))
    monkeypatch.setattr(machine, "_load_torch", lambda: found)
    said = machine.no_worker_because(Settings(device=device))
    assert reason in said
    assert bool(said) == bool(reason)
