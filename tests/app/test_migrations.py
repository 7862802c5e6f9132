"""The migrations lead to exactly the schema of the models, and back, on each database."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import OperationalError

from app.db import Base, make_engine
from app.doctor import services
from app.migrations import alembic_config, current_revision, downgrade, head_revision, upgrade
from app.settings import Settings
from kdcore import __version__
from tests.fixtures.postgres import PostgresServer

RELEASES = Path(__file__).parents[1] / "fixtures" / "releases"


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


@pytest.mark.integration
def test_a_new_sqlite_database_is_opened_by_several_at_once(tmp_path: Path) -> None:
    program = """
import sys, time
from app.db import make_engine
for number in range(200):
    engine = make_engine(f"sqlite:///{sys.argv[1]}/{number}.db")
    time.sleep(max(0, float(sys.argv[2]) + 0.01 * number - time.time()))
    engine.connect().close()
    engine.dispose()
"""
    arguments = ["-c", program, str(tmp_path), str(time.time() + 3)]
    together = [subprocess.Popen([sys.executable, *arguments]) for _ in range(4)]
    assert [process.wait(60) for process in together] == [0] * 4


@pytest.mark.timeout(120)
def test_a_step_gives_up_rather_than_hold_up_everybody(postgres_server: PostgresServer) -> None:
    """Behind a step that waits for a long reader (a backup, say) every other request would wait."""
    postgres_server.execute("CREATE DATABASE beside")
    url = postgres_server.url("beside")
    upgrade(url, "0002")
    engine = make_engine(url)
    with engine.begin() as reader:
        reader.execute(text("SELECT count(*) FROM runs"))
        with pytest.raises(OperationalError, match="lock timeout"):
            upgrade(url)
    assert current_revision(url) == "0002"
    upgrade(url)
    assert current_revision(url) == head_revision()
    engine.dispose()
    postgres_server.execute("DROP DATABASE beside WITH (FORCE)")


# ----------------------------------------------------------------- expand first, contract later


@dataclass(frozen=True)
class _Column:
    type: str
    nullable: bool
    filled_in: bool
    """The database knows a value where a statement names none."""


Schema = dict[str, dict[str, _Column | str]]


def _schema(connection: Connection) -> Schema:
    """Tables, their columns, and the conditions that rows must meet, by name."""
    looked = inspect(connection)
    found: Schema = {}
    for table in looked.get_table_names():
        found[table] = {
            column["name"]: _Column(
                str(column["type"]),
                bool(column["nullable"]),
                bool(column["nullable"]) or column["default"] is not None,
            )
            for column in looked.get_columns(table)
        }
        conditions = [
            *looked.get_unique_constraints(table),
            *looked.get_check_constraints(table),
            *looked.get_foreign_keys(table),
            *(index for index in looked.get_indexes(table) if index["unique"]),
        ]
        found[table] |= {f"condition {each['name']}": str(each["name"]) for each in conditions}
    return found


def _contractions(before: Schema, after: Schema) -> list[str]:
    """What a step does that code of the release before cannot live with."""
    found = [f"{table} is gone" for table in before.keys() - after.keys()]
    for table in before.keys() & after.keys():
        old, new = before[table], after[table]
        for name in old.keys() | new.keys():
            was, now = old.get(name), new.get(name)
            if isinstance(now, str) and was is None:
                found.append(f"{table}: {name} is new")
            elif isinstance(was, _Column) and now is None:
                found.append(f"{table}.{name} is gone")
            elif isinstance(now, _Column) and was is None and not now.filled_in:
                found.append(f"{table}.{name} is new and must be given")
            elif isinstance(was, _Column) and isinstance(now, _Column):
                if was.type != now.type:
                    found.append(f"{table}.{name} was {was.type} and is {now.type}")
                if was.nullable and not now.nullable:
                    found.append(f"{table}.{name} must be given now")
    return sorted(found)


def test_no_step_takes_away_what_the_release_before_needs(empty_database_url: str) -> None:
    """See docs/adr/0010. A step that contracts says `contracts_after = "1.2.0"`, the release that
    first did without what goes: it must be out, which its fixture shows."""
    scripts = ScriptDirectory.from_config(alembic_config(empty_database_url))
    engine = make_engine(empty_database_url)
    before: Schema = {}
    for script in reversed(list(scripts.walk_revisions())):
        upgrade(empty_database_url, script.revision)
        with engine.connect() as connection:
            after = _schema(connection)
        out = getattr(script.module, "contracts_after", None)
        if out is None:
            assert _contractions(before, after) == [], script.revision
        else:
            assert out != __version__, f"{script.revision}: {out} is not out yet"
            assert (RELEASES / out / "halflayer.db").exists(), f"{script.revision}: no {out}"
        before = after
    engine.dispose()


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("DROP TABLE notes", "notes is gone"),
        ("ALTER TABLE notes DROP COLUMN text", "notes.text is gone"),
        ("ALTER TABLE notes RENAME COLUMN text TO words", "notes.text is gone"),
        ("CREATE UNIQUE INDEX ix_one ON notes (text)", "notes: condition ix_one is new"),
        (
            "DROP TABLE notes; CREATE TABLE notes (id INTEGER NOT NULL, text VARCHAR(5) NOT NULL)",
            "notes.text must be given now",
        ),
        (
            "DROP TABLE notes; CREATE TABLE notes (id INTEGER NOT NULL, text VARCHAR(4))",
            "notes.text was VARCHAR(5) and is VARCHAR(4)",
        ),
        (
            "DROP TABLE notes; CREATE TABLE notes (id INTEGER NOT NULL, text VARCHAR(5), "
            "more INTEGER NOT NULL)",
            "notes.more is new and must be given",
        ),
        ("ALTER TABLE notes ADD COLUMN more INTEGER NOT NULL DEFAULT 0", None),
        ("ALTER TABLE notes ADD COLUMN more INTEGER", None),
        ("CREATE TABLE others (id INTEGER NOT NULL)", None),
        ("CREATE INDEX ix_text ON notes (text)", None),
    ],
)
def test_a_contracting_step_is_recognised(
    empty_database_url: str, statement: str, said: str | None
) -> None:
    engine = make_engine(empty_database_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE notes (id INTEGER NOT NULL, text VARCHAR(5))"))
        before = _schema(connection)
        for part in statement.split("; "):
            connection.execute(text(part))
        found = _contractions(before, _schema(connection))
    engine.dispose()
    assert (said in found) if said else (found == [])


@pytest.mark.postgres
@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_of_another_encoding_is_refused(
    postgres_server: PostgresServer, encoding: str
) -> None:
    url = postgres_server.url("old")
    postgres_server.execute(f"CREATE DATABASE old ENCODING '{encoding}' TEMPLATE template0")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "app.cli", "migrate"],
            env={**os.environ, "HALFLAYER_DATABASE_URL": url},
            capture_output=True,
            text=True,
            check=False,
        )
        (finding,) = services.database(Settings(database_url=url))
    finally:
        postgres_server.execute("DROP DATABASE old WITH (FORCE)")
    assert done.returncode == 1
    assert f"the database 'old' has the encoding {encoding} instead of UTF8" in done.stderr
    assert "createdb --encoding=UTF8 --template=template0 old" in done.stderr
    assert finding.status == "failed"
    assert f"{finding.detail}: {finding.remedy}" in done.stderr
    # What the message advises helps.
    postgres_server.execute("CREATE DATABASE old ENCODING 'UTF8' TEMPLATE template0")
    upgrade(url)
    postgres_server.execute("DROP DATABASE old WITH (FORCE)")
