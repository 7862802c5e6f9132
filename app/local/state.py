"""Where the installation on this machine serves, and the token for its command line."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from sqlalchemy.exc import SQLAlchemyError

from app.auth.service import authenticate, create_token
from app.db import Database
from app.errors import Unauthenticated
from app.settings import Settings


@dataclass(frozen=True)
class LocalServer:
    """The server that `halflayer up` runs on a data folder."""

    url: str
    pid: int


def write_private(path: Path, text: str) -> None:
    """Replaces a file whole; nobody but its owner can ever read it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w") as file:
        file.write(text)
    temporary.replace(path)


def server_file(data_dir: Path) -> Path:
    """Names the server that serves this data folder now."""
    return data_dir / "server.json"


def token_file(data_dir: Path) -> Path:
    """Holds the API token of the command line on this machine."""
    return data_dir / "cli-token"


def note_server(data_dir: Path, server: LocalServer) -> None:
    """Tells other commands on this machine where the server is."""
    write_private(server_file(data_dir), json.dumps(asdict(server)) + "\n")


def find_server(data_dir: Path) -> LocalServer | None:
    """The server of this data folder, if its process lives."""
    try:
        server = LocalServer(**json.loads(server_file(data_dir).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return server if psutil.pid_exists(server.pid) else None


def read_token(data_dir: Path) -> str | None:
    """The command line's token, if there is one."""
    try:
        return token_file(data_dir).read_text().strip() or None
    except OSError:
        return None


def ensure_token(settings: Settings, database: Database) -> str:
    """The command line's token for this installation; made anew if it opens nothing."""
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
