"""Which server or installation a command works on, and with which token."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.client import Client, NotAllowed, Unreachable
from app.local.state import find_server, read_token
from app.private_files import keep_private
from app.settings import Settings

if TYPE_CHECKING:
    from app.db import Database

Server = Annotated[
    str | None,
    typer.Option(help="Server URL (HALFLAYER_SERVER); default: the server on this machine."),
]
Token = Annotated[
    str | None,
    typer.Option(help="API token (HALFLAYER_TOKEN); default: the token of this machine."),
]
DataDir = Annotated[
    Path | None, typer.Option(help="Data folder of the server on this machine.", file_okay=False)
]


def settings_of(data_dir: Path | None) -> Settings:
    """The settings of the environment, with the data folder of the command line."""
    return Settings() if data_dir is None else Settings(data_dir=data_dir)


@contextmanager
def local_database(settings: Settings) -> Iterator["Database"]:
    """The database of this installation, for commands that need no server."""
    from app.db import Database  # noqa: PLC0415

    keep_private(settings)
    with closing(Database(settings.resolved_database_url)) as database:
        yield database


def connect(server: str | None, token: str | None, data_dir: Path | None = None) -> Client:
    """A client of the named server, else of the one that serves this data folder."""
    settings = settings_of(data_dir)
    server = server or settings.server
    token = token or (settings.token.get_secret_value() if settings.token else None)
    if server is None:
        local = find_server(settings.data_dir)
        if local is None:
            raise Unreachable(
                f"no server is running for {settings.data_dir.resolve()}: start one with "
                "`halflayer up`, or pass --server"
            )
        server, token = local.url, token or read_token(settings.data_dir)
    if not server.startswith(("http://", "https://")):
        raise Unreachable(f"invalid server URL {server}: it must start with http:// or https://")
    if token is None:
        raise NotAllowed(f"{server} needs a token: pass --token or set HALFLAYER_TOKEN")
    return Client(server, token)
