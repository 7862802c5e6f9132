"""Domain errors, and their conversion to problem+json (RFC 9457).

AppError
├── BadRequest   400   malformed or contradicting headers
├── NotFound     404
├── Conflict     409   not possible in the current state
├── Invalid      422   invalid fields; each problem names its field
├── TooLarge     413
├── Unsupported  415
├── Unauthenticated 401 / Forbidden 403
├── Unavailable  503   with Retry-After
└── DiskFull     507   no disk space left
"""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from starlette.responses import JSONResponse


@dataclass(frozen=True)
class FieldProblem:
    """What is wrong with one field of the request body."""

    pointer: str
    """JSON pointer into the body, such as `/config/model/heads`; `?limit` for a query parameter,
    `idempotency-key:` for a header."""
    detail: str


class AppError(Exception):
    """Base of all errors shown to clients; the message is the `detail` of the problem."""

    status = 500
    slug = "internal"
    title = "Internal server error"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class BadRequest(AppError):
    """Headers that are malformed or contradict each other."""

    status = 400
    slug = "bad-request"
    title = "Bad request"


class NotFound(AppError):
    """No such id, path or name."""

    status = 404
    slug = "not-found"
    title = "Not found"


class Conflict(AppError):
    """The request is valid, but not possible in the current state."""

    status = 409
    slug = "conflict"
    title = "Conflict with the current state"


class Invalid(AppError):
    """Invalid fields; `problems` names each."""

    status = 422
    slug = "invalid"
    title = "Invalid request"

    def __init__(self, detail: str, problems: list[FieldProblem] | None = None) -> None:
        super().__init__(detail)
        self.problems = problems or []


class TooLarge(AppError):
    """More bytes than this server accepts."""

    status = 413
    slug = "too-large"
    title = "Too large"


class Unsupported(AppError):
    """A format that this server does not support."""

    status = 415
    slug = "unsupported"
    title = "Unsupported format"


class Unauthenticated(AppError):
    """No credential, or a wrong, expired or revoked one."""

    status = 401
    slug = "unauthenticated"
    title = "Not signed in"


class Forbidden(AppError):
    """The credential is valid, but its scope or the origin of the request does not allow this."""

    status = 403
    slug = "forbidden"
    title = "Not allowed"


class Unavailable(AppError):
    """A service that the server needs is unavailable; the request may work later."""

    status = 503
    slug = "unavailable"
    title = "Temporarily unavailable"
    retry_after_s = 5


class DiskFull(AppError):
    """The server has no disk space left for the request."""

    status = 507
    slug = "disk-full"
    title = "The server's disk is full"


def problem_response(
    status: int,
    detail: str,
    *,
    slug: str | None = None,
    title: str | None = None,
    problems: list[FieldProblem] | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """A problem+json response; slug and title default to those of the status."""
    phrase = HTTPStatus(status).phrase
    body: dict[str, Any] = {
        "type": f"urn:halflayer:problem:{slug or phrase.lower().replace(' ', '-')}",
        "title": title or phrase,
        "status": status,
        "detail": detail,
        "errors": [{"pointer": each.pointer, "detail": each.detail} for each in problems or []],
    }
    return JSONResponse(
        body, status_code=status, headers=headers, media_type="application/problem+json"
    )


def error_response(error: AppError) -> JSONResponse:
    """The response for a domain error."""
    headers: dict[str, str] = {}
    if isinstance(error, Unavailable):
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = 'Bearer realm="halflayer"'
    return problem_response(
        error.status,
        error.detail,
        slug=error.slug,
        title=error.title,
        problems=error.problems if isinstance(error, Invalid) else None,
        headers=headers,
    )
