"""`halflayer token`: through a server, or directly in the database of this installation.

The database is needed for the first token; anyone who can write to it needs no token.
"""

from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.connect import DataDir, Server, Token, connect, local_database, settings_of
from app.cli.terminal import console, errors, tokens_table
from app.local.state import find_server
from app.settings import Settings

if TYPE_CHECKING:
    from app.auth.models import ApiToken, TokenKind

app = typer.Typer(help="Create, list, revoke API tokens and sign-in links.", no_args_is_help=True)
LINK_LIFETIME_DAYS = 1.0


class ScopeChoice(StrEnum):
    """Permissions of a token; each scope includes the previous ones."""

    read = "read"
    submit = "submit"
    admin = "admin"


@app.command()
def create(
    name: Annotated[
        str | None,
        typer.Option(help="Name. A new link replaces the unused link of the same name."),
    ] = None,
    scope: Annotated[
        ScopeChoice | None,
        typer.Option(help="Permissions; default: read; admin for a sign-in link."),
    ] = None,
    link: Annotated[
        bool, typer.Option("--login", help="Create a sign-in link for a browser instead.")
    ] = False,
    expires_days: Annotated[
        float | None,
        typer.Option(
            min=0.001, max=3650, help="Days until it expires; default: never; one day for links."
        ),
    ] = None,
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Create a token and print it; it cannot be shown again."""
    from app.auth.service import LINK_NAME  # noqa: PLC0415

    settings = settings_of(data_dir)
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
    once = f"This link works once and replaces the unused link named {name!r}:"
    hint = once if link else "Copy the token now; it will not be shown again."
    errors.print(hint, style="dim", markup=False)
    shown = f"{url}/login#token={secret}" if link else secret
    console.print(shown, soft_wrap=True, markup=False, highlight=False)


@app.command("list")
def list_all(server: Server = None, token: Token = None, data_dir: DataDir = None) -> None:
    """List valid tokens, without their secrets."""
    from app.auth.service import list_tokens  # noqa: PLC0415

    settings = settings_of(data_dir)
    if _remote(server, settings):
        with connect(server, token, data_dir) as client:
            console.print(tokens_table(client.tokens()))
        return
    with local_database(settings) as database, database.read() as session:
        console.print(tokens_table([_row(token) for token in list_tokens(session)]))


@app.command("revoke")
def revoke_one(
    token_id: Annotated[str, typer.Argument(help="Id of the token, from `token list`.")],
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Revoke a token, effective immediately."""
    from app.auth.service import revoke  # noqa: PLC0415

    settings = settings_of(data_dir)
    if _remote(server, settings):
        with connect(server, token, data_dir) as client:
            client.revoke_token(token_id)
    else:
        with local_database(settings) as database, database.write() as session:
            revoke(session, token_id)
    console.print(f"Token {token_id} revoked.")


def _remote(server: str | None, settings: Settings) -> bool:
    return bool(server or settings.server)


def _create_in_database(
    settings: Settings, name: str, scope: ScopeChoice, link: bool, expires_days: float | None
) -> str:
    from app.auth.service import create_token  # noqa: PLC0415

    expires = timedelta(days=expires_days) if expires_days else None
    with local_database(settings) as database, database.write() as session:
        kind: TokenKind = "login" if link else "api"
        return create_token(session, kind, name, scope.value, expires)[1]


def _row(token: "ApiToken") -> dict[str, Any]:
    row = {key: getattr(token, key) for key in ("id", "kind", "scope", "name")}
    for key in ("created_at", "last_used_at", "expires_at"):
        moment = getattr(token, key)
        row[key] = moment.isoformat() if moment else None
    return row
