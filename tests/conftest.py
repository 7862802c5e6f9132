"""Fixtures for everybody: real databases, a real Valkey, settings in a temporary folder.

A test that takes `database_url`, or anything built on it (`settings`, `database`), runs twice: on
SQLite and on Postgres. Every test has a database of its own, with all tables; a copy of a
template makes that cheap. What a machine lacks is skipped in so many words, and fails under CI.
"""

import gc
import itertools
import os
import shutil
import signal
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
import redis
from sqlalchemy import create_engine

# Before anything imports a HuggingFace library: its caches stay out of the home folder, which may
# be empty, read-only or precious.
# Tiny models gain nothing from threads, and lose much where another process wants the same cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="halflayer-tests-hf-")

from app.db import Database
from app.local.embedded_broker import BrokerMissing, valkey_binary
from app.settings import Settings
from app.tables import METADATA
from tests.fixtures.broker import RunningBroker
from tests.fixtures.missing import skip_or_fail
from tests.fixtures.orphan_guard import OrphanGuard, orphan_guard
from tests.fixtures.postgres import PostgresMissing, PostgresServer, running_postgres

pytest_plugins = ["tests.kinds"]

# What is imported stays, so the collector need not look at it; it would be a third of the start.
gc.disable()

# Who is started in the background of a script ignores Ctrl-C, and so would all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

DATABASES = ("sqlite", pytest.param("postgres", marks=pytest.mark.postgres))
_numbers = itertools.count()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    # Reports of tests with hostile texts travel between processes, which half a character cannot.
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections
    ]
    return report


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_sessionfinish() -> None:
    shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own HALFLAYER_* variables change no test."""
    for name in [name for name in os.environ if name.startswith("HALFLAYER_")]:
        monkeypatch.delenv(name)


def _create_tables(url: str) -> None:
    engine = create_engine(url)
    METADATA.create_all(engine)
    engine.dispose()


@pytest.fixture(scope="session")
def _tether() -> Iterator[OrphanGuard]:
    with orphan_guard() as held:
        yield held


@pytest.fixture(scope="session")
def postgres_server(_tether: OrphanGuard) -> Iterator[PostgresServer]:
    """A real Postgres for the whole session, with the template database `with_tables`."""
    try:
        with running_postgres() as server:
            _tether.hold(server.pid)
            server.execute("CREATE DATABASE with_tables")
            _create_tables(server.url("with_tables"))
            yield server
    except PostgresMissing as error:
        skip_or_fail(f"no Postgres on this machine: {error}")


@pytest.fixture(scope="session")
def _sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sqlite") / "with_tables.db"
    _create_tables(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(_sqlite_template: Path, tmp_path: Path) -> str:
    """A fresh SQLite database with all tables."""
    return f"sqlite:///{shutil.copy(_sqlite_template, tmp_path / 'halflayer.db')}"


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A fresh Postgres database with all tables."""
    name = f"test_{next(_numbers)}"
    postgres_server.execute(f"CREATE DATABASE {name} TEMPLATE with_tables STRATEGY file_copy")
    yield postgres_server.url(name)
    # FORCE: a test that forgot a connection must not fail the next one.
    postgres_server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest) -> str:
    """A fresh database with all tables, on each kind of database in turn."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture(params=DATABASES)
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database without any table, on each kind of database in turn; for migrations."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = f"empty_{next(_numbers)}"
    server.execute(f"CREATE DATABASE {name}")
    yield server.url(name)
    server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def _broker(
    tmp_path_factory: pytest.TempPathFactory, _tether: OrphanGuard
) -> Iterator[RunningBroker]:
    try:
        valkey_binary()
    except BrokerMissing as error:
        skip_or_fail(str(error))
    with RunningBroker(tmp_path_factory.mktemp("valkey") / "valkey.log") as broker:
        assert broker.process is not None
        _tether.hold(broker.process.pid)
        yield broker


@pytest.fixture
def broker_url(_broker: RunningBroker) -> str:
    """A real Valkey with nothing in it."""
    with redis.Redis.from_url(_broker.url) as client:
        client.flushall()
    return _broker.url


@pytest.fixture
def settings(database_url: str, broker_url: str, tmp_path: Path) -> Settings:
    """An installation in a temporary folder; runs on each kind of database."""
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    return Settings(data_dir=data_dir, database_url=database_url, broker_url=broker_url)


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    """The open database of `settings`."""
    database = Database(settings.resolved_database_url)
    yield database
    database.close()
