"""Brings a database to this version's tables; the migrations themselves are in alembic/."""

from pathlib import Path

from alembic.config import Config

from alembic import command

ROOT = Path(__file__).resolve().parent.parent


def alembic_config(url: str) -> Config:
    """Alembic's configuration for one database."""
    config = Config(ROOT / "alembic.ini")
    # The ini format takes % for itself, and a password may have one.
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    return config


def upgrade(url: str) -> None:
    """Runs the migrations that the database does not have yet."""
    command.upgrade(alembic_config(url), "head")
