"""Finishes the OpenAPI document: problems as problem+json, an example for every operation."""

from functools import cache
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse

from app.openapi.examples import PARAMETERS, PROBLEM, REQUESTS, RESPONSES
from app.schemas import Problem

PROBLEM_JSON = "application/problem+json"
PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "Malformed: host, origin, path, body or its length"},
    401: {"model": Problem, "description": "Not signed in"},
    403: {"model": Problem, "description": "The scope, or the page it came from, forbids it"},
    404: {"model": Problem, "description": "Not found"},
    408: {"model": Problem, "description": "The body did not arrive in time"},
    409: {"model": Problem, "description": "Not possible in the present state"},
    413: {"model": Problem, "description": "Too large"},
    415: {"model": Problem, "description": "Unsupported format"},
    422: {"model": Problem, "description": "A field is wrong; `errors` names it"},
    503: {
        "model": Problem,
        "description": "Temporarily unavailable, or as much as this server takes at a time",
        "headers": {
            "Retry-After": {
                "description": "Seconds after which it may work.",
                "schema": {"type": "integer"},
            }
        },
    },
    507: {"model": Problem, "description": "The server's disk is full"},
}
# What cannot happen to an operation is not documented for it.
BODY_ONLY = ("408", "413", "415", "507")
DESCRIPTION = """
Submit runs, watch them train, download what comes out.

Tools send `Authorization: Bearer hl_...`; browsers hold a session cookie. Errors are
`application/problem+json` (RFC 9457), with a JSON pointer to each wrong field. A method that a
path does not have gets 405, and `Allow` names those that it has. HEAD answers as GET does,
without the body.
""".strip()


DOCUMENT_URL = "/api/v1/openapi.json"


def describe(app: FastAPI) -> None:
    """Make `app.openapi()` the finished document, and serve it."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes
            )
            for path in document["paths"].values():
                for method, operation in path.items():
                    _finish(method, operation)
            app.openapi_schema = document
        return app.openapi_schema

    # FastAPI's documented way to customise the document is to replace the method.
    app.openapi = openapi  # type: ignore[method-assign]

    # Its own route for the document would serialise it at each request, which needs no credential.
    answer = cache(lambda: bytes(JSONResponse(openapi()).body))

    async def serve(_request: Request) -> Response:
        return Response(answer(), media_type="application/json")

    app.add_route(DOCUMENT_URL, serve, include_in_schema=False)


def _finish(method: str, operation: dict[str, Any]) -> None:
    name = operation["operationId"]
    responses = operation["responses"]
    if method in ("get", "delete"):
        for status in BODY_ONLY:
            responses.pop(status, None)
    for status, response in responses.items():
        content = response.get("content", {})
        if status.startswith(("4", "5")) and (name, status) != ("readyz", "503"):
            schema = content.pop("application/json", {}).get("schema")
            if schema is not None:
                content[PROBLEM_JSON] = {"schema": schema, "example": PROBLEM}
        else:
            for media in content.values():
                if name in RESPONSES:
                    media["example"] = RESPONSES[name]
    for media in operation.get("requestBody", {}).get("content", {}).values():
        media["example"] = REQUESTS[name]
    for parameter in operation.get("parameters", []):
        if parameter["name"] in PARAMETERS:
            parameter["example"] = PARAMETERS[parameter["name"]]
    if name == "list_datasets":
        for parameter in operation["parameters"]:
            if parameter["name"] == "kind":
                parameter["example"] = "text"
