"""Runs migrations on SQLite and Postgres, one process at a time."""

from typing import Any, Literal

from sqlalchemy import Connection

from alembic import context
from app.db import UtcDateTime, make_engine
from app.settings import Settings
from app.tables import METADATA

LOCK = 7_104_190_451
"""Key of the Postgres advisory lock that keeps two migrations apart."""
LOCK_TIMEOUT_S = 10
"""A step that cannot have a table for itself within this time fails, and changes nothing."""


def render(kind: str, item: Any, _autogen: Any) -> str | Literal[False]:
    """Migrations are history: they must not change with a type of ours."""
    is_time = kind == "type" and isinstance(item, UtcDateTime)
    return "sa.DateTime(timezone=True)" if is_time else False


def migrate(connection: Connection) -> None:
    """Run the steps on one connection; it is in a transaction of its own."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})")
        # A step that waits for a long reader blocks all later statements; better to give up.
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'")
    context.configure(
        connection=connection,
        target_metadata=METADATA,
        # SQLite cannot alter a table: batch mode rebuilds it and copies the rows.
        render_as_batch=connection.dialect.name == "sqlite",
        compare_type=True,
        render_item=render,
    )
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    raise SystemExit("migrations need the database: SQL scripts are not written")

url = context.config.attributes.get("database_url") or Settings().resolved_database_url
engine = make_engine(url, foreign_keys=False)
try:
    with engine.begin() as connection:
        migrate(connection)
finally:
    engine.dispose()
