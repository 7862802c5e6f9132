"""The migrations lead to exactly the schema of the models, and back, on each database."""

import subprocess
import sys

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from app.db import Base, make_engine
from app.migrations import alembic_config, current_revision, downgrade, head_revision, upgrade


def _differences(url: str) -> list[object]:
    engine = make_engine(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        differences = list(compare_metadata(context, Base.metadata))
    engine.dispose()
    return differences


def _tables(url: str) -> set[str]:
    engine = make_engine(url)
    tables = set(inspect(engine).get_table_names())
    engine.dispose()
    return tables


def test_there_is_one_head() -> None:
    assert len(ScriptDirectory.from_config(alembic_config("")).get_heads()) == 1


def test_up_down_up_leaves_exactly_the_schema_of_the_models(empty_database_url: str) -> None:
    upgrade(empty_database_url)
    assert _differences(empty_database_url) == []
    assert current_revision(empty_database_url) == head_revision()

    downgrade(empty_database_url, "base")
    assert _tables(empty_database_url) <= {"alembic_version"}
    assert current_revision(empty_database_url) is None

    upgrade(empty_database_url)
    assert _differences(empty_database_url) == []
    assert set(Base.metadata.tables) <= _tables(empty_database_url)


def test_upgrade_keeps_what_is_there(empty_database_url: str) -> None:
    upgrade(empty_database_url)
    engine = make_engine(empty_database_url)
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO datasets (id, name, kind, format, columns, size_bytes, sha256, "
                "created_at) VALUES ('d00000000001', 'mine', 'text', 'txt', '', 1, 'x', "
                "'2026-01-01 00:00:00+00:00')"
            )
        )
    upgrade(empty_database_url)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT name FROM datasets")).scalars().all() == ["mine"]
    engine.dispose()


def test_two_migrations_at_once_do_not_collide(empty_database_url: str) -> None:
    command = "import sys; from app.migrations import upgrade; upgrade(sys.argv[1])"
    both = [subprocess.Popen([sys.executable, "-c", command, empty_database_url]) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert _differences(empty_database_url) == []
