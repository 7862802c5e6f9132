"""Finishes the OpenAPI document: problems as problem+json, an example for every operation.

Examples are put together from those of the fields (`Field(examples=[...])`) and their types.
"""

from functools import cache
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse

from app.schemas import Problem

PROBLEM_JSON = "application/problem+json"
EXAMPLE_TIME = "2026-01-15T09:30:00Z"
PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "Malformed host, origin, path, body or length"},
    401: {"model": Problem, "description": "Not signed in"},
    403: {"model": Problem, "description": "Scope or origin do not allow it"},
    404: {"model": Problem, "description": "Not found"},
    408: {"model": Problem, "description": "The body did not arrive in time"},
    409: {"model": Problem, "description": "Conflict with the current state"},
    413: {"model": Problem, "description": "Too large"},
    415: {"model": Problem, "description": "Unsupported format"},
    422: {"model": Problem, "description": "Invalid fields, listed in `errors`"},
    503: {
        "model": Problem,
        "description": "Temporarily unavailable or overloaded",
        "headers": {
            "Retry-After": {
                "description": "Seconds until a retry.",
                "schema": {"type": "integer"},
            }
        },
    },
    507: {"model": Problem, "description": "The server's disk is full"},
}
# Not documented for operations without a body.
BODY_ONLY = ("408", "413", "415", "507")
DESCRIPTION = """
Submit runs, watch them train, download the results.

Tools send `Authorization: Bearer hl_...`; browsers hold a session cookie. Errors are
`application/problem+json` (RFC 9457), with a JSON pointer to each invalid field. Unsupported
methods get 405 with an `Allow` header. HEAD is answered like GET, without the body.
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
                    _finish(method, operation, document["components"]["schemas"])
            app.openapi_schema = document
        return app.openapi_schema

    # FastAPI's documented way to customise the document is to replace the method.
    app.openapi = openapi  # type: ignore[method-assign]

    # Serialised once: the route needs no credential, and would be expensive otherwise.
    answer = cache(lambda: bytes(JSONResponse(openapi()).body))

    async def serve(_request: Request) -> Response:
        return Response(answer(), media_type="application/json")

    app.add_route(DOCUMENT_URL, serve, include_in_schema=False)


def _finish(method: str, operation: dict[str, Any], models: dict[str, Any]) -> None:
    responses = operation["responses"]
    if method in ("get", "delete"):
        for status in BODY_ONLY:
            responses.pop(status, None)
    for response in responses.values():
        content = response.get("content", {})
        model = content.get("application/json", {}).get("schema", {}).get("$ref", "")
        if model.endswith("/Problem"):
            content[PROBLEM_JSON] = content.pop("application/json")
        for media in content.values():
            media.setdefault("example", _example(media["schema"], models))
    for media in operation.get("requestBody", {}).get("content", {}).values():
        media["example"] = _example(media["schema"], models)
    for parameter in operation.get("parameters", []):
        parameter["example"] = _example(parameter["schema"], models)


def _example(schema: dict[str, Any], models: dict[str, Any]) -> Any:
    """An instance of a schema: its own example, default or first choice, else one of its parts."""
    if "examples" in schema:
        return schema["examples"][0]
    if schema.get("default") is not None:
        return schema["default"]
    if "$ref" in schema:
        return _example(models[schema["$ref"].rpartition("/")[2]], models)
    if "anyOf" in schema:
        return _example(schema["anyOf"][0], models)
    if "enum" in schema:
        return schema["enum"][0]
    if "const" in schema:
        return schema["const"]
    match schema.get("type"):
        case "object":
            fields = schema.get("properties", {})
            return {name: _example(field, models) for name, field in fields.items()}
        case "array":
            return [_example(schema["items"], models)]
        case "boolean":
            return False
        case "integer" | "number":
            return 1
        case "string":
            return EXAMPLE_TIME if schema.get("format") == "date-time" else "text"
        case _:
            return None
