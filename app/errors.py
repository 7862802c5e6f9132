"""Domain errors; one handler in `app.main` turns them into problem+json (RFC 9457).

AppError
├── NotFound     404
├── Conflict     409   the state of things forbids it
├── Invalid      422   one or several fields are wrong; each problem names its field
├── TooLarge     413
├── Unsupported  415
├── Unauthenticated 401 / Forbidden 403
└── Unavailable  503   with Retry-After
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class FieldProblem:
    """What is wrong with one field of the request body."""

    pointer: str
    """JSON pointer into the body, for instance `/config/model/heads`."""
    detail: str


class AppError(Exception):
    """Base of all errors that a client sees; the message is the problem's `detail`."""

    status = 500
    slug = "internal"
    title = "Something went wrong on the server"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class NotFound(AppError):
    status = 404
    slug = "not-found"
    title = "Not found"


class Conflict(AppError):
    status = 409
    slug = "conflict"
    title = "Not possible in the present state"


class Invalid(AppError):
    status = 422
    slug = "invalid"
    title = "The request has a mistake"

    def __init__(self, detail: str, problems: list[FieldProblem] | None = None) -> None:
        super().__init__(detail)
        self.problems = problems or []


class TooLarge(AppError):
    status = 413
    slug = "too-large"
    title = "Too large"


class Unsupported(AppError):
    status = 415
    slug = "unsupported"
    title = "Unsupported format"


class Unauthenticated(AppError):
    status = 401
    slug = "unauthenticated"
    title = "Not signed in"


class Forbidden(AppError):
    status = 403
    slug = "forbidden"
    title = "Not allowed"


class Unavailable(AppError):
    status = 503
    slug = "unavailable"
    title = "Temporarily unavailable"
    retry_after_s = 5
