"""`halflayer token`: against a server, or straight in the database of this installation.

The database is for the first token of all: whoever may read it needs no permission to write it.
"""

from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from app.auth.models import ApiToken, TokenKind
from app.auth.service import LINK_NAME, create_token, list_tokens, revoke
from app.cli.connect import DataDir, Server, Token, connect
from app.cli.terminal import console, errors, tokens_table
from app.db import Database
from app.local.state import find_server
from app.private_files import keep_private
from app.settings import Settings

app = typer.Typer(help="Create, list, revoke API tokens and sign-in links.", no_args_is_help=True)
LINK_LIFETIME_DAYS = 1.0


class ScopeChoice(StrEnum):
    """What a token may do; each includes the ones before it."""

    read = "read"
    submit = "submit"
    admin = "admin"


@app.command()
def create(
    name: Annotated[
        str | None,
        typer.Option(help="What it is for. A new link replaces the unused one of the same name."),
    ] = None,
    scope: Annotated[
        ScopeChoice | None,
        typer.Option(help="What it may do; by default read, and admin for a sign-in link."),
    ] = None,
    link: Annotated[
        bool, typer.Option("--login", help="A sign-in link for one browser instead of a token.")
    ] = False,
    expires_days: Annotated[
        float | None,
        typer.Option(min=0.001, max=3650, help="Days until it expires; links: one day."),
    ] = None,
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Create a token and print it, this once."""
    settings = _settings(data_dir)
    scope = scope or (ScopeChoice.admin if link else ScopeChoice.read)
    name = name or (LINK_NAME if link else "from the command line")
    if link and expires_days is None:
        expires_days = LINK_LIFETIME_DAYS
    if _remote(server, settings):
        with connect(server, token, data_dir) as client:
            kind = "login" if link else "api"
            secret = client.create_token(name, scope.value, kind, expires_days)["token"]
            url = client.server
    else:
        secret = _create_in_database(settings, name, scope, link, expires_days)
        local = find_server(settings.data_dir)
        url = settings.public_url or (local.url if local else settings.local_url)
    once = f"It works once, and replaces the unused link named {name!r}:"
    errors.print(once if link else "Keep it: it is shown this once.", style="dim", markup=False)
    shown = f"{url}/login#token={secret}" if link else secret
    console.print(shown, soft_wrap=True, markup=False, highlight=False)


@app.command("list")
def list_all(server: Server = None, token: Token = None, data_dir: DataDir = None) -> None:
    """List the tokens that still open something, without their secrets."""
    settings = _settings(data_dir)
    if _remote(server, settings):
        with connect(server, token, data_dir) as client:
            console.print(tokens_table(client.tokens()))
        return
    keep_private(settings)
    database = Database(settings.resolved_database_url)
    try:
        with database.read() as session:
            console.print(tokens_table([_row(token) for token in list_tokens(session)]))
    finally:
        database.close()


@app.command("revoke")
def revoke_one(
    token_id: Annotated[str, typer.Argument(help="Id of the token, from `token list`.")],
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Make a token useless at once."""
    settings = _settings(data_dir)
    if _remote(server, settings):
        with connect(server, token, data_dir) as client:
            client.revoke_token(token_id)
    else:
        keep_private(settings)
        database = Database(settings.resolved_database_url)
        try:
            with database.write() as session:
                revoke(session, token_id)
        finally:
            database.close()
    console.print(f"token {token_id} opens nothing any more")


def _settings(data_dir: Path | None) -> Settings:
    return Settings() if data_dir is None else Settings(data_dir=data_dir)


def _remote(server: str | None, settings: Settings) -> bool:
    return bool(server or settings.server)


def _create_in_database(
    settings: Settings, name: str, scope: ScopeChoice, link: bool, expires_days: float | None
) -> str:
    expires = timedelta(days=expires_days) if expires_days else None
    keep_private(settings)
    database = Database(settings.resolved_database_url)
    try:
        with database.write() as session:
            kind: TokenKind = "login" if link else "api"
            _, secret = create_token(session, kind, name, scope.value, expires)
    finally:
        database.close()
    return secret


def _row(token: ApiToken) -> dict[str, Any]:
    row = {key: getattr(token, key) for key in ("id", "kind", "scope", "name")}
    for key in ("created_at", "last_used_at", "expires_at"):
        moment = getattr(token, key)
        row[key] = moment.isoformat() if moment else None
    return row
