"""Rows as lines of JSON, the same for SQLite and Postgres; knows no table of ours by name.

The tables are read as they are in the database and not as the models have them, so that rows of
an older schema can be saved and restored too.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, Connection, DateTime, MetaData, Table, func, insert, select

from app.backup.manifest import BackupError, SavedFile, SavedTable, sync_file
from app.backup.progress import Advance
from app.db import UtcDateTime

BATCH = 1000
"""Rows in memory at a time."""


def tables_of(connection: Connection, names: Iterable[str]) -> list[Table]:
    """Those of the named tables that the database has; what others refer to comes first."""
    wanted = set(names)
    metadata = MetaData()
    metadata.reflect(connection, only=lambda name, _: name in wanted)
    # Those that others refer to are reflected with them.
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
) -> tuple[SavedTable, SavedFile]:
    """Write the table's rows to a new file of the backup, durably."""
    place = place_of(table.name)
    path = backup / place
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = _columns(table)
    rows, whole, size_bytes = Digest(), hashlib.sha256(), 0
    with open(path, "xb") as file:
        for line in _lines(connection, table, columns):
            rows.add(line)
            whole.update(line)
            size_bytes += file.write(line)
            advance(1)
        file.flush()
        sync_file(file)
    return (
        SavedTable(name=table.name, columns=columns, rows=rows.rows, digest=rows.hex),
        SavedFile(path=place, size_bytes=size_bytes, sha256=whole.hexdigest()),
    )


def place_of(table: str) -> str:
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
    with open(backup / place_of(saved.name), encoding="ascii") as file:
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
    """What `save_table` would say of the rows as they are now."""
    digest = Digest()
    for line in _lines(connection, table, columns):
        digest.add(line)
        advance(1)
    return digest.hex


class Digest:
    """Of rows whatever their order, which is the database's own affair: a sum of hashes."""

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
    # By name: databases that came to their schema by other ways have another order.
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
