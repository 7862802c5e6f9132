"""Domain errors, and the one place that turns them into problem+json (RFC 9457).

AppError
├── BadRequest   400   no request of HTTP, or headers that contradict each other
├── NotFound     404
├── Conflict     409   the state of things forbids it
├── Invalid      422   one or several fields are wrong; each problem names its field
├── TooLarge     413
├── Unsupported  415
├── Unauthenticated 401 / Forbidden 403
├── Unavailable  503   with Retry-After
└── DiskFull     507   no room for what was sent
"""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from starlette.responses import JSONResponse


@dataclass(frozen=True)
class FieldProblem:
    """What is wrong with one field of the request body."""

    pointer: str
    """JSON pointer into the body, for instance `/config/model/heads`; `?limit` for a query,
    `idempotency-key:` for a header."""
    detail: str


class AppError(Exception):
    """Base of all errors that a client sees; the message is the problem's `detail`."""

    status = 500
    slug = "internal"
    title = "Something went wrong on the server"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class BadRequest(AppError):
    """Headers that are malformed or contradict each other."""

    status = 400
    slug = "bad-request"
    title = "Bad request"


class NotFound(AppError):
    """Nothing is known under the given id, path or name."""

    status = 404
    slug = "not-found"
    title = "Not found"


class Conflict(AppError):
    """The request is fine, but the present state of things forbids it."""

    status = 409
    slug = "conflict"
    title = "Not possible in the present state"


class Invalid(AppError):
    """One or several fields are wrong; `problems` names each."""

    status = 422
    slug = "invalid"
    title = "The request has a mistake"

    def __init__(self, detail: str, problems: list[FieldProblem] | None = None) -> None:
        super().__init__(detail)
        self.problems = problems or []


class TooLarge(AppError):
    """More bytes than this server takes."""

    status = 413
    slug = "too-large"
    title = "Too large"


class Unsupported(AppError):
    """A format that this server does not read."""

    status = 415
    slug = "unsupported"
    title = "Unsupported format"


class Unauthenticated(AppError):
    """No credential, or one that is wrong, expired or revoked."""

    status = 401
    slug = "unauthenticated"
    title = "Not signed in"


class Forbidden(AppError):
    """The credential is good but its scope, or the page it came from, does not allow this."""

    status = 403
    slug = "forbidden"
    title = "Not allowed"


class Unavailable(AppError):
    """Something that the server needs is away; the same request may work later."""

    status = 503
    slug = "unavailable"
    title = "Temporarily unavailable"
    retry_after_s = 5


class DiskFull(AppError):
    """The server's disk has no room for what was sent."""

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
    """A problem+json response; slug and title follow from the status where none is given."""
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
