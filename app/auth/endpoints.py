"""Sign-in, sign-out and API tokens over HTTP."""

from datetime import datetime, timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request, Response
from pydantic import Field, StringConstraints

from app.auth.dependencies import (
    COOKIE,
    CurrentPrincipal,
    GuardedRoute,
    needs_admin,
    needs_read,
    require_same_origin,
)
from app.auth.models import ApiToken, Scope
from app.auth.service import create_token, list_tokens, redeem_login, revoke
from app.context import Ctx
from app.errors import Conflict, error_response
from app.idempotency import Once
from app.schemas import Id, Name, Schema, TokenIdPath, fields_of
from kdcore import __version__

router = APIRouter(tags=["access"], route_class=GuardedRoute)


class SignIn(Schema):
    """The one-time token of a sign-in link."""

    token: Annotated[str, StringConstraints(min_length=1, max_length=200)] = Field(
        examples=["hl_login_3q2-7wEXAMPLEonlyEXAMPLEonlyEXAMPLEonly"]
    )
    """The part of the link after `#token=`."""


class SignedIn(Schema):
    """A new browser session; the cookie is in the response headers."""

    scope: Scope


class SessionInfo(Schema):
    """The current credential and the server version."""

    scope: Scope
    """`read`, `submit` or `admin`; each scope includes the previous ones."""
    version: str = Field(examples=["0.1.0"])
    """Version of the server."""


class NewToken(Schema):
    """A token to create."""

    name: Name
    """Name of the token."""
    scope: Scope = "read"
    """Permissions."""
    kind: Literal["api", "login"] = "api"
    """`api` for tools; `login` for a one-time sign-in link, which replaces the unused link of the
    same name."""
    expires_days: Annotated[float, Field(gt=0, le=3650, examples=[90])] | None = None
    """Days until expiry; by default never (API tokens) or one day (sign-in links)."""


class TokenInfo(Schema):
    """A credential, without its secret."""

    id: Id
    kind: Literal["api", "login", "session"]
    name: str = Field(examples=["notebook"])
    scope: Scope
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    """Accurate to a minute."""


class CreatedToken(TokenInfo):
    """A new credential with its secret, which is not shown again."""

    token: str = Field(examples=["hl_3q2-7wEXAMPLEonlyEXAMPLEonlyEXAMPLEonlyEXA"])


class TokenList(Schema):
    """All valid credentials, newest first."""

    items: list[TokenInfo]
    total: int


@router.post("/session", tags=["access"])
def sign_in(body: SignIn, request: Request, response: Response, ctx: Ctx) -> SignedIn:
    """Exchange a one-time sign-in token for a browser session, set as an HttpOnly cookie."""
    require_same_origin(request, allow_unknown=True)
    lifetime = timedelta(days=ctx.settings.session_days)
    with ctx.db.write() as session:
        row, secret = redeem_login(session, body.token, lifetime)
    response.set_cookie(
        COOKIE,
        secret,
        max_age=int(lifetime.total_seconds()),
        httponly=True,
        samesite="strict",
        secure=ctx.settings.secure_cookies,
    )
    return SignedIn.model_validate({"scope": row.scope})


@router.get("/session", dependencies=[Depends(needs_read)])
def get_session(principal: CurrentPrincipal) -> SessionInfo:
    """The current session; 401 without one."""
    return SessionInfo.model_validate({"scope": principal.scope, "version": __version__})


@router.delete("/session", status_code=204, dependencies=[Depends(needs_read)])
def sign_out(principal: CurrentPrincipal, response: Response, ctx: Ctx) -> None:
    """End the browser session; API tokens are not affected."""
    if principal.kind == "session":
        with ctx.db.write() as session:
            revoke(session, principal.token_id)
    response.delete_cookie(
        COOKIE, httponly=True, samesite="strict", secure=ctx.settings.secure_cookies
    )


@router.get("/tokens", dependencies=[Depends(needs_admin)], operation_id="list_tokens")
def get_tokens(ctx: Ctx) -> TokenList:
    """All valid credentials, without their secrets."""
    with ctx.db.read() as session:
        items = [_info(row) for row in list_tokens(session)]
    return TokenList(items=items, total=len(items))


@router.post("/tokens", status_code=201, dependencies=[Depends(needs_admin)])
def add_token(body: NewToken, ctx: Ctx, once: Once) -> CreatedToken:
    """Create a token; its secret is only in this response."""
    expires = timedelta(days=body.expires_days) if body.expires_days else None
    if expires is None and body.kind == "login":
        expires = timedelta(days=1)
    with ctx.db.write() as session:
        once.begin(session, body.model_dump_json())
        row, secret = create_token(session, body.kind, body.name, body.scope, expires)
        once.end(*_already_created(row))
        return CreatedToken(**_info(row).model_dump(), token=secret)


@router.delete("/tokens/{token_id}", status_code=204, dependencies=[Depends(needs_admin)])
def revoke_token(token_id: TokenIdPath, ctx: Ctx) -> None:
    """Revoke a token, effective immediately."""
    with ctx.db.write() as session:
        revoke(session, token_id)


def _already_created(row: ApiToken) -> tuple[str, int]:
    """The response to a repeated request, since the secret is not stored."""
    detail = (
        f"This request has already created the token {row.id}. Its secret was in the first "
        "response only: if it is lost, revoke the token and create a new one with a new "
        "Idempotency-Key."
    )
    response = error_response(Conflict(detail))
    return bytes(response.body).decode(), response.status_code


def _info(row: ApiToken) -> TokenInfo:
    return TokenInfo(**fields_of(row, TokenInfo))
