"""Rows as lines of JSON, the same for SQLite and Postgres; refers to no table by name.

The tables are read as the database has them, not as the models do, so that rows of an older schema
can be saved and restored too.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, Connection, DateTime, MetaData, Table, func, insert, select

from app.backup.manifest import BackupError, SavedTable
from app.backup.progress import Advance
from app.db import UtcDateTime
from kdcore.files import ManifestFile

BATCH = 1000
"""Rows in memory at a time."""


def tables_of(connection: Connection, names: Iterable[str]) -> list[Table]:
    """Those of the named tables that the database has; referenced tables come first."""
    wanted = set(names)
    metadata = MetaData()
    metadata.reflect(connection, only=lambda name, _: name in wanted)
    # Referenced tables are reflected with them.
    tables = [table for table in metadata.sorted_tables if table.name in wanted]
    for table in tables:
        for column in table.columns:
            if isinstance(column.type, DateTime):
                column.type = UtcDateTime()
            elif isinstance(column.type, JSON):
                column.type = JSON(none_as_null=True)
    return tables


def count_rows(connection: Connection, tables: Iterable[Table]) -> int:
    """How many rows they have together."""
    return sum(connection.scalar(select(func.count()).select_from(table)) or 0 for table in tables)


def save_table(
    connection: Connection, table: Table, backup: Path, advance: Advance
) -> tuple[SavedTable, ManifestFile]:
    """Write the table's rows to a new file of the backup."""
    name = path_of(table.name)
    path = backup / name
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = _columns(table)
    rows, content, size_bytes = Digest(), hashlib.sha256(), 0
    with open(path, "xb") as file:
        for line in _lines(connection, table, columns):
            rows.add(line)
            content.update(line)
            size_bytes += file.write(line)
            advance(1)
    return (
        SavedTable(name=table.name, columns=columns, rows=rows.rows, digest=rows.hex),
        ManifestFile(path=name, size_bytes=size_bytes, sha256=content.hexdigest()),
    )


def path_of(table: str) -> str:
    """Where a table's rows are in the backup."""
    return f"database/{table}.jsonl"


def load_table(
    connection: Connection, table: Table, backup: Path, saved: SavedTable, advance: Advance
) -> None:
    """Insert the rows that the backup has of the table."""
    unknown = sorted(set(saved.columns) - set(table.columns.keys()))
    if unknown:
        raise BackupError(f"the table {saved.name} has no column {', '.join(unknown)}")
    times = [isinstance(table.columns[name].type, UtcDateTime) for name in saved.columns]
    with open(backup / path_of(saved.name), encoding="ascii") as file:
        while lines := list(islice(file, BATCH)):
            rows = [
                {
                    name: datetime.fromisoformat(value) if time and value is not None else value
                    for name, time, value in zip(saved.columns, times, values, strict=True)
                }
                for values in map(json.loads, lines)
            ]
            connection.execute(insert(table), rows)
            advance(len(rows))


def digest_of(connection: Connection, table: Table, columns: list[str], advance: Advance) -> str:
    """The digest that `save_table` would compute of the present rows."""
    digest = Digest()
    for line in _lines(connection, table, columns):
        digest.add(line)
        advance(1)
    return digest.hex


class Digest:
    """A sum of the hashes of rows, because databases return them in any order."""

    def __init__(self) -> None:
        self.rows = 0
        self._sum = 0

    def add(self, line: bytes) -> None:
        """Count one row."""
        self.rows += 1
        self._sum += int.from_bytes(hashlib.sha256(line).digest(), "big")

    @property
    def hex(self) -> str:
        return f"{self._sum % 2**256:064x}"


def _columns(table: Table) -> list[str]:
    # By name: the order depends on the migrations that the database went through.
    return sorted(table.columns.keys())


def _lines(connection: Connection, table: Table, columns: list[str]) -> Iterator[bytes]:
    statement = select(*[table.columns[name] for name in columns])
    encode = json.JSONEncoder(separators=(",", ":"), default=_time_text).encode
    for row in connection.execute(statement, execution_options={"yield_per": BATCH}):
        yield encode(list(row)).encode("ascii") + b"\n"


def _time_text(value: Any) -> str:
    if not isinstance(value, datetime):
        raise BackupError(f"a value of type {type(value).__name__} cannot be saved")
    return value.isoformat()
