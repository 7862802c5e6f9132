"""Converts exceptions of endpoints to problem+json."""

import errno
import logging
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException

from app.errors import (
    AppError,
    DiskFull,
    FieldProblem,
    Invalid,
    Unavailable,
    error_response,
    problem_response,
)
from app.storage import StoreUnavailable
from kdcore.errors import is_disk_full

logger = logging.getLogger(__name__)
DISCRIMINATORS = ("kind", "source", "strategy")
MESSAGES = {
    "missing": "this field is required",
    "extra_forbidden": "unknown field",
    "json_invalid": "the body is not valid JSON",
}


def install(app: FastAPI) -> None:
    """Register the handlers."""
    app.add_exception_handler(AppError, _app_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    for kind in (OperationalError, InterfaceError, DBAPIError, PoolTimeout):
        app.add_exception_handler(kind, _database_error)
    app.add_exception_handler(StoreUnavailable, _store_unavailable)
    app.add_exception_handler(OSError, _os_error)


async def _app_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, AppError)
    return error_response(error)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    detail = str(error.detail)
    if error.status_code == 404 and detail == "Not Found":
        detail = f"Nothing found at {request.url.path}."
    if error.status_code == 405:
        headers["Allow"] = ", ".join(_allowed_methods(request))
        detail = f"{request.method} is not supported here; supported: {headers['Allow']}."
    if error.status_code == 400 and detail == "There was an error parsing the body":
        detail = "The body cannot be parsed: send UTF-8 JSON of reasonable depth and numbers."
    return problem_response(error.status_code, detail, headers=headers)


def _allowed_methods(request: Request) -> list[str]:
    """Methods of all routes with this path; Starlette names those of the first one only."""
    path: str = request.scope["path"]
    found = [
        route.methods or set()
        for route in iter_route_contexts(request.app.routes)
        if route.path_regex.match(path)
    ]
    # Other paths are files of the web page. `HeadMiddleware` turns HEAD into GET.
    methods = set().union(*found) or {"GET"}
    return sorted(methods | {"HEAD"} if "GET" in methods else methods)


async def _validation_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = [field_problem(each, error.body) for each in error.errors()]
    if any(each["loc"][:1] == ("path",) for each in error.errors()):
        return problem_response(404, "Not found: this is not a valid id.")
    if any(each["type"] == "json_invalid" for each in error.errors()):
        return problem_response(400, f"The body is not valid JSON: {problems[0].detail}.")
    first = problems[0]
    where = f"{first.pointer.removesuffix(':')}: " if first.pointer else ""
    more = f" ({len(problems) - 1} more)" if len(problems) > 1 else ""
    return problem_response(
        422,
        f"{where}{first.detail}{more}",
        slug=Invalid.slug,
        title=Invalid.title,
        problems=problems,
    )


async def _database_error(_request: Request, error: Exception) -> Response:
    full = "disk is full" in str(error) or "No space left" in str(error)
    if full:
        return error_response(DiskFull("The disk of the database is full."))
    unreachable = isinstance(error, OperationalError | InterfaceError | PoolTimeout)
    if not unreachable and not getattr(error, "connection_invalidated", False):
        raise error  # a bug, not an outage
    logger.warning("database unavailable: %s", error)
    return error_response(Unavailable("The database cannot be reached; try again in a moment."))


async def _store_unavailable(_request: Request, error: Exception) -> Response:
    logger.warning("%s", error)
    return error_response(Unavailable("The file store cannot be reached; try again in a moment."))


async def _os_error(_request: Request, error: Exception) -> Response:
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        logger.warning("too many open files: %s", error)
        return error_response(
            Unavailable("The server has reached its limit of open files; try again.")
        )
    if not is_disk_full(error):
        raise error
    return error_response(
        DiskFull("The disk of the server is full: delete runs or datasets first.")
    )


def field_problem(error: dict[str, Any], body: Any) -> FieldProblem:
    """A pydantic error as pointer into the body and message."""
    return FieldProblem(pointer(error["loc"], body), _message(error))


def pointer(loc: Sequence[str | int], body: Any) -> str:
    """JSON pointer for a pydantic location.

    pydantic includes the chosen variant of a union in the location, which is not in the body, so
    it is left out: ("config", "teacher", "model", "scratch", "heads") is `/config/model/heads`.
    """
    if loc[:1] == ("header",):
        return f"{loc[-1]}:"
    if loc[:1] != ("body",):
        return f"?{loc[-1]}" if loc[:1] == ("query",) else ""
    steps: list[str] = []
    node = body
    fresh = True
    for step in loc[1:]:
        if fresh and isinstance(node, dict) and _is_tag(node, step):
            fresh = False  # once per object
            continue
        steps.append(str(step).replace("~", "~0").replace("/", "~1"))
        node, fresh = _descend(node, step), True
    return "".join(f"/{step}" for step in steps)


def _is_tag(node: dict[str, Any], step: str | int) -> bool:
    return any(node.get(key) == step for key in DISCRIMINATORS) and step not in DISCRIMINATORS


def _descend(node: Any, step: str | int) -> Any:
    if isinstance(node, dict):
        return node.get(str(step))
    if isinstance(node, list) and isinstance(step, int) and step < len(node):
        return node[step]
    return None


def _message(error: dict[str, Any]) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == "json_invalid":
        return f"{context.get('error', 'malformed')} at character {error['loc'][-1]}"
    if kind == "union_tag_invalid":
        return (
            f"unknown {context['discriminator'].strip(chr(39))} '{context['tag']}': "
            f"choose {context['expected_tags']}"
        )
    if kind == "union_tag_not_found":
        return f"the field {context['discriminator']} is required"
    if kind in MESSAGES:
        return MESSAGES[kind]
    message: str = error["msg"]
    message = message.replace("Input should be", "must be").replace("String should", "must")
    return message.replace(
        "must be a valid dictionary or object to extract fields from", "must be an object"
    )
