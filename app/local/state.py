"""Address and command-line token of the server on this machine."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from app.settings import Settings

if TYPE_CHECKING:
    from app.db import Database


@dataclass(frozen=True)
class LocalServer:
    """The server that `halflayer up` runs for a data folder."""

    url: str
    pid: int


def write_private(path: Path, text: str) -> None:
    """Replace a file atomically, readable by its owner only."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w") as file:
        file.write(text)
    temporary.replace(path)


def server_file(data_dir: Path) -> Path:
    """File with the running server of this data folder."""
    return data_dir / "server.json"


def token_file(data_dir: Path) -> Path:
    """File with the API token of the command line on this machine."""
    return data_dir / "cli-token"


def note_server(data_dir: Path, server: LocalServer) -> None:
    """Record the server for other commands on this machine."""
    write_private(server_file(data_dir), json.dumps(asdict(server)) + "\n")


def find_server(data_dir: Path) -> LocalServer | None:
    """The server of this data folder, if its process is alive."""
    try:
        server = LocalServer(**json.loads(server_file(data_dir).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return server if psutil.pid_exists(server.pid) else None


def read_token(data_dir: Path) -> str | None:
    """The token of the command line, if any."""
    try:
        return token_file(data_dir).read_text().strip() or None
    except OSError:
        return None


def ensure_token(settings: Settings, database: "Database") -> str:
    """The token of the command line; created if missing or invalid."""
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

    from app.auth.service import authenticate, create_token  # noqa: PLC0415
    from app.errors import Unauthenticated  # noqa: PLC0415

    token = read_token(settings.data_dir)
    if token is not None:
        try:
            with database.read() as session:
                authenticate(session, token, "api")
        except (Unauthenticated, SQLAlchemyError):
            pass
        else:
            return token
    with database.write() as session:
        _, token = create_token(session, "api", "command line on this machine", "admin")
    write_private(token_file(settings.data_dir), token + "\n")
    return token
