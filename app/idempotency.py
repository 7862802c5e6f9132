"""What requests with an Idempotency-Key have created, and what they were answered.

A key is stored in the transaction of the rows that its request creates, so that neither is ever
there without the other. A request that is refused stores nothing, and its key may be used again.
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
    description="Any text of the client's own, one for each thing to create. The same request with "
    "the same key creates nothing more within 24 hours: it gets the answer of the first one.",
)


class IdempotencyKey(Base):
    """The answer to a request that has created something."""

    __tablename__ = "idempotency_keys"

    token_id: Mapped[str] = mapped_column(String(12), primary_key=True)
    """The credential that sent the key; the same key of another one is another key."""
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    """SHA-256 of the request: its path and what its body says."""
    status: Mapped[int]
    response: Mapped[str] = mapped_column(Text)
    """The body that the same request gets again; never a secret."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now, index=True)


class KeyReused(Invalid):
    """The key came before, with another request."""

    slug = "idempotency-key-reused"
    title = "The Idempotency-Key belongs to another request"


class Replayed(Exception):
    """The request was carried out before; ends its handling with the answer of that time."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(status)
        self.status, self.body = status, body


class Creation:
    """A request that creates something, at most once for each key; without a key, every time."""

    def __init__(self, path: str, token_id: str, key: str | None) -> None:
        self._path, self._token_id, self._key = path, token_id, key
        self._row: IdempotencyKey | None = None

    def begin(self, session: Session, body: str) -> None:
        """Call it first in the transaction; raises Replayed, or KeyReused for another `body`.

        While the same key is in another transaction, this waits for the end of that one.
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
                    "This Idempotency-Key came with another request before: "
                    "send a new key with each new request."
                ) from None
            raise Replayed(known.status, known.response) from None
        self._row = row

    def end(self, response: str, status: int = 201) -> None:
        """Store what the same request gets from now on; call it in the same transaction."""
        if self._row is not None:
            self._row.status, self._row.response = status, response


def forget_expired_keys(db: Database) -> None:
    """Remove the keys that are older than a day; writes nothing where there are none."""
    expired = IdempotencyKey.created_at < utc_now() - KEPT
    with db.read() as session:
        if session.scalar(select(IdempotencyKey.key).where(expired).limit(1)) is None:
            return
    with db.write() as session:
        session.execute(delete(IdempotencyKey).where(expired))


def creation(request: Request, idempotency_key: Annotated[str | None, KEY] = None) -> Creation:
    """What this request creates, under the key that it carries; for routes that need a scope."""
    return Creation(request.url.path, request.state.principal.token_id, idempotency_key)


Once = Annotated[Creation, Depends(creation)]
"""The Idempotency-Key of a request, for endpoints that create."""


async def answer_again(_request: Request, error: Exception) -> Response:
    """The handler of Replayed."""
    assert isinstance(error, Replayed)
    media_type = "application/json" if error.status < 400 else "application/problem+json"
    return Response(error.body, error.status, media_type=media_type)
