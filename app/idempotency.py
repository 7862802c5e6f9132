"""Idempotency-Keys of requests that create something, with their responses.

A key is stored in the same transaction as the created rows. A refused request stores nothing, so
that its key can be used again.
"""

import hashlib
from datetime import datetime, timedelta
from typing import Annotated

from fastapi import Depends, Header, Request, Response
from sqlalchemy import String, Text, delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, Session, mapped_column

from app.db import Base, Database, UtcDateTime, utc_now
from app.errors import Invalid

KEPT = timedelta(hours=24)
KEY = Header(
    max_length=255,
    pattern=r"^[!-~]+$",
    examples=["1f0f7a1c-5f4e-4a0b-9b52-6f2f7c1d9a3e"],
    description="Any unique text. Within 24 hours, a repeated request with the same key creates "
    "nothing and gets the response of the first one.",
)


class IdempotencyKey(Base):
    """The response to a request that has created something."""

    __tablename__ = "idempotency_keys"

    token_id: Mapped[str] = mapped_column(String(12), primary_key=True)
    """The credential that sent the key; keys of different credentials are unrelated."""
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    """SHA-256 of path and body of the request."""
    status: Mapped[int]
    response: Mapped[str] = mapped_column(Text)
    """The body for repeated requests; never a secret."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now, index=True)


class KeyReused(Invalid):
    """The key was used with a different request."""

    slug = "idempotency-key-reused"
    title = "Idempotency-Key reused"


class Replayed(Exception):
    """The request was handled before; responds with the stored response."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(status)
        self.status, self.body = status, body


class Creation:
    """A request that creates something, once per key; without a key, every time."""

    def __init__(self, path: str, token_id: str, key: str | None) -> None:
        self._path, self._token_id, self._key = path, token_id, key
        self._row: IdempotencyKey | None = None

    def begin(self, session: Session, body: str) -> None:
        """Call it first in the transaction; raises Replayed, or KeyReused for a different `body`.

        Waits for the end of another transaction with the same key.
        """
        if self._key is None:
            return
        fingerprint = hashlib.sha256(f"{self._path}\n{body}".encode()).hexdigest()
        row = IdempotencyKey(
            token_id=self._token_id, key=self._key, fingerprint=fingerprint, status=0, response=""
        )
        try:
            with session.begin_nested():
                session.add(row)
        except IntegrityError:
            known = session.get_one(IdempotencyKey, (self._token_id, self._key))
            if known.fingerprint != fingerprint:
                raise KeyReused(
                    "This Idempotency-Key was used with a different request: "
                    "send a new key with each new request."
                ) from None
            raise Replayed(known.status, known.response) from None
        self._row = row

    def end(self, response: str, status: int = 201) -> None:
        """Store the response for repeated requests; call it in the same transaction."""
        if self._row is not None:
            self._row.status, self._row.response = status, response


def forget_expired_keys(db: Database) -> None:
    """Remove keys older than a day; writes nothing if there are none."""
    expired = IdempotencyKey.created_at < utc_now() - KEPT
    with db.read() as session:
        if session.scalar(select(IdempotencyKey.key).where(expired).limit(1)) is None:
            return
    with db.write() as session:
        session.execute(delete(IdempotencyKey).where(expired))


def creation(request: Request, idempotency_key: Annotated[str | None, KEY] = None) -> Creation:
    """The creation of this request with its key; for authenticated routes."""
    return Creation(request.url.path, request.state.principal.token_id, idempotency_key)


Once = Annotated[Creation, Depends(creation)]
"""The Idempotency-Key of a request, for endpoints that create something."""


async def replay(_request: Request, error: Exception) -> Response:
    """The handler of Replayed."""
    assert isinstance(error, Replayed)
    media_type = "application/json" if error.status < 400 else "application/problem+json"
    return Response(error.body, error.status, media_type=media_type)
