"""Runs all checks in order; one that crashes does not stop the others."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing

from pydantic import ValidationError
from pydantic_settings import SettingsError

from app.db import Database
from app.doctor import machine, services
from app.doctor.findings import Finding, failed, skipped
from app.settings import Settings

NEEDS_DATABASE = "needs the database"


def examine(make_settings: Callable[[], Settings]) -> Iterator[Finding]:
    """Check the installation that these settings describe."""
    yield from machine.python()
    try:
        settings = make_settings()
    except ValidationError as error:
        for problem in error.errors():
            name = "_".join(str(part) for part in problem["loc"][:1]).upper()
            yield failed("settings", f"HALFLAYER_{name}: {problem['msg']}", "correct it")
        return
    except SettingsError as error:
        yield failed("settings", str(error), "write lists as JSON, e.g. '[\"a.example\"]'")
        return
    yield from machine.inconsistent_settings(settings)
    yield from _guarded("torch", machine.torch)
    yield from _guarded("data folder", lambda: machine.data_folder(settings))
    yield from _guarded("page", lambda: machine.page(settings))
    about_api, status = services.api(settings)
    yield from about_api
    yield from _guarded("broker", lambda: services.broker(settings, status))
    yield from _guarded("store", lambda: services.store(settings))
    about_database = list(_guarded("database", lambda: services.database(settings)))
    yield from about_database
    if any(finding.status == "failed" for finding in about_database):
        for check in ("clocks", "workers", "work folders", "leftovers"):
            yield skipped(check, NEEDS_DATABASE)
        return
    with closing(Database(settings.resolved_database_url)) as db:
        yield from _guarded("clocks", lambda: services.clocks(db))
        yield from _guarded("workers", lambda: services.workers(settings, db))
        yield from _guarded("work folders", lambda: services.work_folders(settings, db))
        yield from _guarded("leftovers", lambda: services.interrupted(settings, db))


def _guarded(check: str, look: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    try:
        yield from look()
    except Exception as error:
        yield failed(check, f"{type(error).__name__}: {error}", "the check itself failed")
