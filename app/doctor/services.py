"""Checks of other services: database, broker, API, store, workers."""

import os
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import redis
from sqlalchemy import func, make_url, select
from sqlalchemy.exc import SQLAlchemyError

from app.db import Database, WrongEncoding, new_id, utc_now
from app.doctor.findings import Finding, failed, ok, size, skipped, warning
from app.local.state import find_server
from app.migrations import current_revision, head_revision, revisions
from app.retention.leftovers import Leftover, leftovers
from app.runs.models import Run
from app.runs.states import FINAL, RunState
from app.settings import Settings
from app.storage import Store
from app.workers.models import Worker
from kdcore import __version__

MAX_SKEW_S = 5.0
SHOWN = 5
ORPHAN_AGE_S = 3600.0


def shown_url(url: str) -> str:
    """The URL without its password."""
    return make_url(url).render_as_string(hide_password=True)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def database(settings: Settings) -> Iterator[Finding]:
    """Reachable, and migrated to this version."""
    url = make_url(settings.resolved_database_url)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
        yield failed("database", f"{url.database} does not exist", "halflayer migrate")
        return
    try:
        current = current_revision(settings.resolved_database_url)
    except WrongEncoding as error:
        yield failed("database", error.problem, error.remedy)
        return
    except SQLAlchemyError as error:
        yield failed(
            "database",
            f"{shown_url(settings.resolved_database_url)} does not answer: {_first_line(error)}",
            "start it, or set HALFLAYER_DATABASE_URL",
        )
        return
    if current is not None and current not in revisions():
        yield failed(
            "database",
            f"its schema {current} is newer than Halflayer {__version__}",
            "install the version that migrated it",
        )
    elif current != head_revision():
        yield failed(
            "database",
            f"its schema is {current or 'empty'}; this version needs {head_revision()}",
            "halflayer migrate",
        )
    else:
        yield ok("database", f"{shown_url(settings.resolved_database_url)}, schema {current}")


def clocks(db: Database) -> Iterator[Finding]:
    """The clock of the database server compared to the clock of this host."""
    if db.engine.dialect.name == "sqlite":
        yield ok("clocks", "the database is a local file")
        return
    with db.read() as session:
        session.execute(select(1))  # connect first, so that it does not count
        before = utc_now()
        there = session.execute(select(func.clock_timestamp())).scalar_one()
        after = utc_now()
    skew_s = (there.astimezone(UTC) - before - (after - before) / 2).total_seconds()
    if abs(skew_s) > MAX_SKEW_S:
        yield warning(
            "clocks",
            f"the clock of the database differs by {skew_s:+.0f} s: ages and expiry are wrong",
            "synchronize both hosts by NTP (chrony or systemd-timesyncd)",
        )
    else:
        yield ok("clocks", f"the clock of the database differs by {skew_s:+.2f} s")


def api(settings: Settings) -> tuple[list[Finding], dict[str, str]]:
    """Whether a server answers, and its readiness report."""
    local = find_server(settings.data_dir)
    url = settings.server or (local.url if local else settings.local_url)
    try:
        response = httpx.get(f"{url}/readyz", timeout=15, trust_env=False)
        says = response.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        remedy = "halflayer up, or python -m app.server; or set HALFLAYER_SERVER"
        return [failed("api", f"no server answers at {url}: {_first_line(error)}", remedy)], {}
    if response.status_code == 400:
        remedy = "add the host name to HALFLAYER_ALLOWED_HOSTS of the API"
        return [failed("api", f"{url}: {says.get('detail')}", remedy)], {}
    if says.get("status") == "ready":
        return [ok("api", f"{url} is ready")], says
    away = ", ".join(name for name in ("database", "broker", "disk") if says.get(name) == "failed")
    return [failed("api", f"{url} is {says.get('status')}: {away}", "see the checks below")], says


def broker(settings: Settings, api_says: dict[str, str]) -> Iterator[Finding]:
    """The broker answers; only the API knows the embedded one."""
    if "broker_url" not in settings.model_fields_set:
        if api_says.get("broker") == "ok":
            yield ok("broker", "embedded; the API reaches it")
        elif api_says:
            yield failed("broker", "the API does not reach its broker", "restart `halflayer up`")
        else:
            yield skipped("broker", "HALFLAYER_BROKER_URL is not set; `halflayer up` embeds one")
        return
    shown = shown_url(settings.broker_url)
    try:
        with redis.Redis.from_url(
            settings.broker_url, socket_timeout=3, socket_connect_timeout=3
        ) as client:
            client.ping()
    except (redis.RedisError, OSError, ValueError) as error:
        yield failed(
            "broker",
            f"{shown} does not answer: {_first_line(error)}",
            "start it, or set HALFLAYER_BROKER_URL",
        )
    else:
        yield ok("broker", f"{shown} answers")


def store(settings: Settings) -> Iterator[Finding]:
    """A file can be written and read back."""
    shown = settings.resolved_storage_url
    if not settings.storage_url and not settings.data_dir.is_dir():
        yield skipped("store", "it is in the data folder")
        return
    key, content = f"doctor-{new_id()}", os.urandom(64)
    try:
        there = Store(settings)
        with tempfile.TemporaryDirectory() as folder:
            probe = Path(folder) / "probe"
            probe.write_bytes(content)
            there.put_file(probe, f"{key}/probe")
        try:
            with there.open(f"{key}/probe") as file:
                same = file.read() == content
        finally:
            there.delete_prefix(key)
    # fsspec's back ends raise what their libraries raise.
    except Exception as error:
        yield failed(
            "store",
            f"{shown} cannot be used: {_first_line(error)}",
            "check HALFLAYER_STORAGE_URL, its credentials and permissions",
        )
        return
    if same:
        yield ok("store", f"{shown} can be written and read")
    else:
        yield failed(
            "store", f"{shown} returns different bytes than were written", "do not use this store"
        )


def workers(settings: Settings, db: Database) -> Iterator[Finding]:
    """Which workers send heartbeats; watches counters, so that no clock of another host counts."""
    rows = _rows(db)
    first = {row.id: row.beat for row in rows}
    # Clocks only limit the wait: workers not seen recently are not waited for.
    recent = {row.id for row in rows if abs((utc_now() - row.seen_at).total_seconds()) < 300}
    deadline = time.monotonic() + 1.5 * settings.heartbeat_s + 2
    alive: set[str] = set()
    while (recent - alive or (first and not alive)) and time.monotonic() < deadline:
        time.sleep(min(0.5, settings.heartbeat_s / 4))
        rows = _rows(db)
        alive = {row.id for row in rows if row.beat != first.get(row.id, row.beat)}
    beating = [row for row in rows if row.id in alive]
    silent = [row for row in rows if row.id in first and row.id not in alive]
    if beating:
        yield ok("workers", ", ".join(f"{row.hostname} on {row.device}" for row in beating))
    else:
        yield failed(
            "workers",
            "no worker is sending heartbeats; queued runs will not start",
            "halflayer worker",
        )
    if silent:
        names = ", ".join(f"{row.hostname} on {row.device}" for row in silent[:SHOWN])
        yield warning(
            "workers",
            f"{len(silent)} lost: {names}; other workers continue their runs",
            "check their logs and restart them; lost workers are removed after a week",
        )
    other = sorted({row.version for row in beating} - {__version__})
    if other:
        yield warning(
            "workers",
            f"some run version {', '.join(other)}, this is {__version__}",
            "install the same version everywhere",
        )
    hosts = {row.hostname for row in beating}
    if db.engine.dialect.name == "sqlite" and len(hosts) > 1:
        yield failed(
            "workers",
            f"workers on {len(hosts)} hosts share a SQLite file, which needs a single host",
            "use Postgres: set HALFLAYER_DATABASE_URL",
        )


def _rows(db: Database) -> list[Worker]:
    with db.read() as session:
        return list(session.scalars(select(Worker).where(Worker.stopped_at.is_(None))))


def interrupted(settings: Settings, db: Database) -> Iterator[Finding]:
    """Files of interrupted uploads and workers in the uploads and in the store."""
    found = leftovers(db, settings, Store(settings))
    mine = [each for each in found if each.known]
    strange = [each for each in found if not each.known]
    if mine:
        yield warning(
            "leftovers",
            f"{len(mine)} interrupted uploads or results, {size(_total(mine))}",
            "halflayer cleanup",
        )
    if strange:
        places = ", ".join(each.place for each in strange[:SHOWN])
        yield warning(
            "leftovers",
            f"{len(strange)} of no run or dataset in this database, "
            f"{size(_total(strange))}: {places}",
            "remove them by hand if this is the right database",
        )
    if not found:
        yield ok("leftovers", "none")


def _total(found: list[Leftover]) -> int:
    return sum(each.size_bytes for each in found)


def work_folders(settings: Settings, db: Database) -> Iterator[Finding]:
    """Work folders of runs that have ended or were deleted."""
    folder = settings.work_dir
    here = sorted(folder.iterdir()) if folder.is_dir() else []
    with db.read() as session:
        found = session.execute(select(Run.id, Run.state)).all()
    states = {run_id: RunState(state) for run_id, state in found}
    now_s = datetime.now(UTC).timestamp()
    left, failures = [], []
    for path in here:
        state = states.get(path.name)
        if state is RunState.FAILED:
            failures.append(path)
        elif state in FINAL or (state is None and now_s - path.stat().st_mtime > ORPHAN_AGE_S):
            left.append(path)
    if left:
        yield warning(
            "work folders",
            f"{len(left)} of ended runs, {size(_bytes(left))}",
            "rm -r " + " ".join(map(str, left)),
        )
    else:
        yield ok("work folders", "none of ended runs")
    if failures:
        yield ok(
            "work folders",
            f"{len(failures)} of failed runs, kept until the runs are deleted, "
            f"{size(_bytes(failures))}",
        )


def _bytes(folders: list[Path]) -> int:
    files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    return sum(path.stat().st_size for path in files)
