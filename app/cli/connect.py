"""Which server a command talks to, and with which token."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.client import Client, NotAllowed, Unreachable
from app.local.state import find_server, read_token
from app.settings import Settings

Server = Annotated[
    str | None,
    typer.Option(help="URL of a server (HALFLAYER_SERVER); by default the one on this machine."),
]
Token = Annotated[
    str | None,
    typer.Option(help="API token (HALFLAYER_TOKEN); by default this machine's own."),
]
DataDir = Annotated[
    Path | None, typer.Option(help="Data folder of the server on this machine.", file_okay=False)
]


def connect(server: str | None, token: str | None, data_dir: Path | None = None) -> Client:
    """A client of the named server, else of the one that serves this machine's data folder."""
    settings = Settings() if data_dir is None else Settings(data_dir=data_dir)
    server = server or settings.server
    token = token or (settings.token.get_secret_value() if settings.token else None)
    if server is None:
        local = find_server(settings.data_dir)
        if local is None:
            raise Unreachable(
                f"no Halflayer serves the data folder {settings.data_dir.resolve()}: start one "
                "with `halflayer up`, or name a server with --server"
            )
        server, token = local.url, token or read_token(settings.data_dir)
    if not server.startswith(("http://", "https://")):
        raise Unreachable(f"{server} is no URL: it must begin with http:// or https://")
    if token is None:
        raise NotAllowed(f"{server} wants a token: name one with --token or HALFLAYER_TOKEN")
    return Client(server, token)
