"""Credentials (API tokens, sign-in links, sessions), kept as SHA-256 only; knows no HTTP."""

import hashlib
import hmac
import secrets
from datetime import datetime, timedelta
from typing import get_args

from sqlalchemy import ColumnElement, and_, or_, select, update
from sqlalchemy.orm import Session

from app.auth.models import ApiToken, Scope, TokenKind
from app.db import new_id, utc_now
from app.errors import NotFound, Unauthenticated

SCOPES: tuple[Scope, ...] = get_args(Scope)
"""In order: each scope includes the previous ones."""
PREFIXES: dict[TokenKind, str] = {"api": "hl_", "login": "hl_login_", "session": "hl_session_"}
LINK_NAME = "sign-in link"
USED_PRECISION = timedelta(minutes=1)


def includes(scope: str, needed: Scope) -> bool:
    """Whether `scope` includes `needed`."""
    return scope in SCOPES and SCOPES.index(scope) >= SCOPES.index(needed)


def create_token(
    session: Session,
    kind: TokenKind,
    name: str,
    scope: Scope,
    expires: datetime | timedelta | None = None,
) -> tuple[ApiToken, str]:
    """A new credential: its row, and the secret, which cannot be read again later.

    A new sign-in link revokes the unused one of the same name, so that links do not accumulate.
    """
    if kind == "login":
        session.execute(
            update(ApiToken)
            .where(ApiToken.kind == kind, ApiToken.name == name, ApiToken.revoked_at.is_(None))
            .values(revoked_at=utc_now())
            .execution_options(synchronize_session=False)
        )
    secret = PREFIXES[kind] + secrets.token_urlsafe(32)
    row = ApiToken(
        id=new_id(),
        kind=kind,
        name=name,
        scope=scope,
        sha256=_digest(secret),
        created_at=utc_now(),
        expires_at=utc_now() + expires if isinstance(expires, timedelta) else expires,
    )
    session.add(row)
    session.flush()
    return row, secret


def authenticate(session: Session, secret: str, kind: TokenKind) -> ApiToken:
    """The valid credential of this kind with this secret; raises Unauthenticated."""
    digest = _digest(secret)
    row = session.scalar(select(ApiToken).where(ApiToken.sha256 == digest, ApiToken.kind == kind))
    if row is None or not hmac.compare_digest(row.sha256, digest):
        raise Unauthenticated("Unknown token.")
    if row.revoked_at is not None:
        raise Unauthenticated("This token was revoked, or it is a sign-in link that has been used.")
    if row.expires_at is not None and row.expires_at <= utc_now():
        raise Unauthenticated("This token has expired.")
    return row


def needs_use_mark(row: ApiToken) -> bool:
    """Whether the time of last use is old enough to update."""
    return row.last_used_at is None or utc_now() - row.last_used_at > USED_PRECISION


def mark_used(session: Session, token_id: str) -> None:
    """Update the time of last use."""
    session.execute(update(ApiToken).where(ApiToken.id == token_id).values(last_used_at=utc_now()))


def redeem_login(session: Session, secret: str, lifetime: timedelta) -> tuple[ApiToken, str]:
    """Exchange a one-time login token for a browser session; raises Unauthenticated."""
    login = authenticate(session, secret, "login")
    used = session.execute(
        update(ApiToken)
        .where(ApiToken.id == login.id, ApiToken.revoked_at.is_(None))
        .values(revoked_at=utc_now(), last_used_at=utc_now())
        .execution_options(synchronize_session=False)
    )
    # Two browsers may race for one link: the row count decides.
    if getattr(used, "rowcount", 0) != 1:
        raise Unauthenticated("This sign-in link has been used; ask for a new one.")
    scope: Scope = next(each for each in SCOPES if each == login.scope)
    return create_token(session, "session", login.name, scope, lifetime)


def list_tokens(session: Session) -> list[ApiToken]:
    """All valid credentials, newest first."""
    rows = select(ApiToken).where(_live()).order_by(ApiToken.created_at.desc(), ApiToken.id)
    return list(session.scalars(rows))


def live_ids(session: Session, token_ids: set[str]) -> set[str]:
    """The valid ones among `token_ids`."""
    found: set[str] = set()
    ordered = sorted(token_ids)
    for start in range(0, len(ordered), 500):  # databases limit the parameters of a statement
        some = ordered[start : start + 500]
        found.update(session.scalars(select(ApiToken.id).where(ApiToken.id.in_(some), _live())))
    return found


def revoke(session: Session, token_id: str) -> ApiToken:
    """Revoke a credential; idempotent. Raises NotFound."""
    row = session.get(ApiToken, token_id)
    if row is None:
        raise NotFound(f"There is no token {token_id}.")
    if row.revoked_at is None:
        row.revoked_at = utc_now()
        session.flush()
    return row


def _live() -> ColumnElement[bool]:
    unexpired = or_(ApiToken.expires_at.is_(None), ApiToken.expires_at > utc_now())
    return and_(ApiToken.revoked_at.is_(None), unexpired)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
