"""The Idempotency-Key of a request, for endpoints that create; stores nothing itself."""

from typing import Annotated

from fastapi import Depends, Header, Request, Response

from app.idempotency import Creation, Replayed
from app.security import CurrentPrincipal

KEY = Header(
    max_length=255,
    pattern=r"^[!-~]+$",
    description="Any text of the client's own, one for each thing to create. The same request with "
    "the same key creates nothing more within 24 hours: it gets the answer of the first one.",
)


def creation(
    request: Request,
    principal: CurrentPrincipal,
    idempotency_key: Annotated[str | None, KEY] = None,
) -> Creation:
    """What this request creates, under the key that it carries."""
    return Creation(request.url.path, principal.token_id, idempotency_key)


Once = Annotated[Creation, Depends(creation)]


async def answer_again(_request: Request, error: Exception) -> Response:
    """The handler of Replayed."""
    assert isinstance(error, Replayed)
    media_type = "application/json" if error.status < 400 else "application/problem+json"
    return Response(error.body, error.status, media_type=media_type)
