"""Authentication and authorization: bearer tokens, cookie sessions, scopes, same-origin checks."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRoute
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer
from fastapi.security.utils import get_authorization_scheme_param
from sqlalchemy.exc import SQLAlchemyError

from app.auth.models import Scope, TokenKind
from app.auth.service import authenticate, includes, mark_used, needs_use_mark
from app.context import Context, get_context
from app.errors import BadRequest, Forbidden, Unauthenticated
from app.web.authority import parse_authority, parse_origin
from app.web.bodies import MULTIPART_SLACK_BYTES, Body

COOKIE = "halflayer_session"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
BODY_METHODS = frozenset({"POST", "PUT", "PATCH"})
MULTIPART = "multipart/form-data"
OPEN_BODY_BYTES = 4096
"""Largest body of a route that needs no credential: a sign-in token is far shorter."""

bearer_scheme = HTTPBearer(
    auto_error=False, scheme_name="bearer", description="An API token: `hl_...`"
)
cookie_scheme = APIKeyCookie(
    name=COOKIE, auto_error=False, scheme_name="session", description="Set by `POST /session`"
)


@dataclass(frozen=True)
class Principal:
    """The authenticated sender of a request."""

    token_id: str
    kind: TokenKind
    name: str
    scope: str


async def get_principal(
    request: Request,
    _bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer_scheme)],
    _cookie: Annotated[str | None, Depends(cookie_scheme)],
) -> Principal:
    """The sender as found by `GuardedRoute`; the two schemes are for the OpenAPI document."""
    principal: Principal = request.state.principal
    return principal


CurrentPrincipal = Annotated[Principal, Depends(get_principal)]


async def needs_read(principal: CurrentPrincipal) -> Principal:
    """Requires the scope `read`."""
    return _require(principal, "read")


async def needs_submit(principal: CurrentPrincipal) -> Principal:
    """Requires the scope `submit`."""
    return _require(principal, "submit")


async def needs_admin(principal: CurrentPrincipal) -> Principal:
    """Requires the scope `admin`."""
    return _require(principal, "admin")


NEEDED: dict[Any, Scope] = {needs_read: "read", needs_submit: "submit", needs_admin: "admin"}


class GuardedRoute(APIRoute):
    """Checks credential, scope and body headers before any of the body is read.

    FastAPI reads the body before it solves dependencies. The scope is that of the `needs_...`
    dependency of the route; a route without one is public.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Called by FastAPI."""
        handle = super().get_route_handler()
        needed = [
            NEEDED[each.dependency] for each in self.dependencies if each.dependency in NEEDED
        ]
        is_upload = MULTIPART in str(self.openapi_extra)

        async def check_and_handle(request: Request) -> Response:
            ctx = get_context(request)
            client = f"address {request.client.host if request.client else ''}"
            if needed:
                principal = await _authenticate(ctx, request)
                for scope in needed:
                    _require(principal, scope)
                request.state.principal = principal
                if connection := getattr(request.state, "connection", None):
                    connection.mark_authenticated()  # see `app.server`
                client = principal.token_id
            body: Body = request.state.body
            if body.announced and request.method in BODY_METHODS:
                if is_upload:
                    limit_bytes = ctx.settings.max_upload_bytes + MULTIPART_SLACK_BYTES
                    body.admit(MULTIPART, limit_bytes, ctx.settings.upload_timeout_s, None, client)
                else:
                    limit_bytes = ctx.settings.max_body_bytes if needed else OPEN_BODY_BYTES
                    timeout_s = ctx.settings.body_timeout_s
                    body.admit("application/json", limit_bytes, timeout_s, ctx.bodies, client)
            return await handle(request)

        return check_and_handle


async def _authenticate(ctx: Context, request: Request) -> Principal:
    """Authenticate a request; raises Unauthenticated, or Forbidden for cross-site requests."""
    scheme, secret = get_authorization_scheme_param(request.headers.get("authorization"))
    if scheme.lower() == "bearer" and secret:
        return await run_in_threadpool(_check, ctx, secret, "api")
    if cookie := request.cookies.get(COOKIE):
        principal = await run_in_threadpool(_check, ctx, cookie, "session")
        # A browser attaches the cookie by itself, so that writes must also prove their origin. For
        # reads it is enough that no other origin is named. (SameSite does not distinguish ports
        # of one host, such as that of a notebook server.) Bearer tokens need no such proof.
        require_same_origin(request, allow_unknown=request.method in SAFE_METHODS)
        return principal
    raise Unauthenticated("Sign in with a sign-in link, or send 'Authorization: Bearer hl_...'.")


def require_same_origin(request: Request, *, allow_unknown: bool) -> None:
    """Refuse requests of other origins; raises Forbidden, or BadRequest for a malformed origin.

    `allow_unknown` accepts requests without an origin, as command-line tools send them.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        # "none": the address bar or a bookmark, which never cause a write.
        if site != "same-origin" and (site != "none" or request.method not in SAFE_METHODS):
            raise Forbidden("Cross-site requests are not allowed.")
        return
    origins = request.headers.getlist("origin")
    if not origins:
        if not allow_unknown:
            raise Forbidden(
                "A write with a browser session needs a Sec-Fetch-Site or Origin header; "
                "tools use 'Authorization: Bearer hl_...' instead."
            )
        return
    # Browsers send "null" for opaque origins.
    authority = parse_origin(origins[0])
    if len(origins) > 1 or (authority is None and origins[0] != "null"):
        raise BadRequest("The Origin header is malformed: send one, as SCHEME://HOST:PORT.")
    # The scheme is not compared: behind a TLS proxy this process sees http, the browser https.
    if authority is None or authority != parse_authority(request.headers.get("host", "")):
        raise Forbidden("Cross-site requests are not allowed.")


def _check(ctx: Context, secret: str, kind: TokenKind) -> Principal:
    with ctx.db.read() as session:
        row = authenticate(session, secret, kind)
    if needs_use_mark(row):
        try:
            with ctx.db.write() as session:
                mark_used(session, row.id)
        except SQLAlchemyError:
            pass  # the time of last use is for display only
    return Principal(token_id=row.id, kind=kind, name=row.name, scope=row.scope)


def _require(principal: Principal, scope: Scope) -> Principal:
    if not includes(principal.scope, scope):
        raise Forbidden(f"This requires the scope '{scope}'; the token has '{principal.scope}'.")
    return principal
