"""Who may do what: bearer tokens, cookie sessions, scopes, and the same-origin check of writes."""

from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.exc import SQLAlchemyError

from app.context import Context, Ctx
from app.errors import Forbidden, Unauthenticated
from app.tokens import Scope, TokenKind, authenticate, includes, mark_used, needs_use_mark

COOKIE = "halflayer_session"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

bearer_scheme = HTTPBearer(
    auto_error=False, scheme_name="bearer", description="An API token: `hl_...`"
)
cookie_scheme = APIKeyCookie(
    name=COOKIE, auto_error=False, scheme_name="session", description="Set by `POST /session`"
)


@dataclass(frozen=True)
class Principal:
    """Whoever sends this request, as far as the server knows."""

    token_id: str
    kind: TokenKind
    name: str
    scope: str


def get_principal(
    request: Request,
    ctx: Ctx,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer_scheme)],
    cookie: Annotated[str | None, Depends(cookie_scheme)],
) -> Principal:
    """The holder of the request's credential; raises Unauthenticated, or Forbidden across sites."""
    if bearer is not None:
        return _check(ctx, bearer.credentials, "api")
    if cookie:
        principal = _check(ctx, cookie, "session")
        # A browser attaches the cookie by itself, so the request must also prove which page sent
        # it; of a read it is enough that no other page did. (Another port of the same host is
        # another page, but to SameSite the same site: a notebook server, say.) A bearer token is
        # attached by nobody but its holder and needs no such proof.
        require_same_origin(request, allow_unknown=request.method in SAFE_METHODS)
        return principal
    raise Unauthenticated(
        "Sign in with the link that the server printed, or send 'Authorization: Bearer hl_...'."
    )


CurrentPrincipal = Annotated[Principal, Depends(get_principal)]


def needs_read(principal: CurrentPrincipal) -> Principal:
    """Lets through whoever may read."""
    return _require(principal, "read")


def needs_submit(principal: CurrentPrincipal) -> Principal:
    """Lets through whoever may submit, cancel and upload."""
    return _require(principal, "submit")


def needs_admin(principal: CurrentPrincipal) -> Principal:
    """Lets through whoever may hand out tokens."""
    return _require(principal, "admin")


def require_same_origin(request: Request, *, allow_unknown: bool) -> None:
    """Refuse what a page of another origin sent; raises Forbidden.

    `allow_unknown` lets requests pass that name no origin at all, as command-line tools send them.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        # "none": a person typed the address or opened a bookmark. No write comes about so.
        if site != "same-origin" and (site != "none" or request.method not in SAFE_METHODS):
            raise Forbidden("A page of another site may not do this.")
        return
    origin = request.headers.get("origin")
    if origin is None:
        if not allow_unknown:
            raise Forbidden(
                "A write with a browser session must carry Sec-Fetch-Site or Origin; "
                "tools use 'Authorization: Bearer hl_...' instead."
            )
        return
    # The scheme is left out: behind a TLS proxy this process sees http where the browser has https.
    if urlsplit(origin).netloc.lower() != request.headers.get("host", "").lower():
        raise Forbidden("A page of another site may not do this.")


def _check(ctx: Context, secret: str, kind: TokenKind) -> Principal:
    with ctx.db.read() as session:
        row = authenticate(session, secret, kind)
    if needs_use_mark(row):
        try:
            with ctx.db.write() as session:
                mark_used(session, row.id)
        except SQLAlchemyError:
            pass  # the time of last use is for people to read; no request fails over it
    return Principal(token_id=row.id, kind=kind, name=row.name, scope=row.scope)


def _require(principal: Principal, scope: Scope) -> Principal:
    if not includes(principal.scope, scope):
        raise Forbidden(f"This needs the scope '{scope}'; yours is '{principal.scope}'.")
    return principal


Reader = Annotated[Principal, Depends(needs_read)]
Submitter = Annotated[Principal, Depends(needs_submit)]
Admin = Annotated[Principal, Depends(needs_admin)]
