"""Brings a database to the newest schema; the steps themselves are in `alembic/versions`."""

from pathlib import Path

from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from alembic import command
from app.db import make_engine

_SCRIPTS = Path(__file__).with_name("alembic")


def alembic_config(database_url: str) -> Config:
    """Alembic's configuration for one database."""
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    # Not through the ini's options: those would take a `%` in a password for interpolation.
    config.attributes["database_url"] = database_url
    return config


def upgrade(database_url: str, revision: str = "head") -> None:
    """Carry out the missing steps; harmless when there are none, or when two do it at once."""
    command.upgrade(alembic_config(database_url), revision)


def downgrade(database_url: str, revision: str) -> None:
    """Take steps back, to `base` for all of them; what they added is lost."""
    command.downgrade(alembic_config(database_url), revision)


def head_revision() -> str:
    """The newest revision that this code knows."""
    head = ScriptDirectory.from_config(alembic_config("")).get_current_head()
    assert head is not None
    return head


def revisions() -> list[str]:
    """All revisions that this code knows, oldest first."""
    scripts = ScriptDirectory.from_config(alembic_config("")).walk_revisions()
    return [script.revision for script in scripts][::-1]


def current_revision(database_url: str) -> str | None:
    """The revision that the database is at; None for one without tables."""
    engine = make_engine(database_url)
    try:
        with engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision()
    finally:
        engine.dispose()
