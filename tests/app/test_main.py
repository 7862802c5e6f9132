"""The application as a whole: what it must not import, and what it says of itself."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jsonschema
import pytest
from fastapi import FastAPI
from pydantic import BaseModel

from app.openapi.__main__ import document
from app.openapi.document import describe
from tests.app.conftest import Api

ROOT = Path(__file__).parents[2]
DOCUMENT = document()
# Their bodies are files, streams or text; the example is a hint, not an instance.
NO_JSON = {"stream_events", "prometheus_metrics", "upload_dataset"}


@pytest.mark.integration
def test_importing_the_application_loads_neither_torch_nor_the_worker() -> None:
    script = (
        "import sys, app.main; heavy = {'torch', 'transformers', 'worker', 'datasets'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"


def test_the_committed_openapi_document_is_up_to_date() -> None:
    committed = json.loads((ROOT / "frontend" / "openapi.json").read_text())
    assert committed == DOCUMENT, "run: python -m app.openapi > frontend/openapi.json"


def _operations() -> list[Any]:
    return [
        pytest.param(operation, id=operation["operationId"])
        for path in DOCUMENT["paths"].values()
        for operation in path.values()
    ]


def _media(operation: dict[str, Any]) -> list[dict[str, Any]]:
    found = list(operation.get("requestBody", {}).get("content", {}).values())
    for response in operation["responses"].values():
        found.extend(response.get("content", {}).values())
    return found


def test_the_example_of_a_constant_is_the_constant_even_if_it_is_called_like_a_type() -> None:
    class Field(BaseModel):
        kind: Literal["string"]

    app = FastAPI()
    app.get("/field", response_model=Field)(lambda: None)
    describe(app)
    answer = app.openapi()["paths"]["/field"]["get"]["responses"]["200"]
    assert answer["content"]["application/json"]["example"] == {"kind": "string"}


@pytest.mark.parametrize("operation", _operations())
def test_every_operation_has_examples_that_fit_its_schemas(operation: dict[str, Any]) -> None:
    assert operation["summary"]
    assert operation["description"]
    for media in _media(operation):
        assert "example" in media
        if operation["operationId"] not in NO_JSON:
            schema = media["schema"] | {"components": DOCUMENT["components"]}
            # The validator alone: `validate` would check the whole document's schemas every time.
            jsonschema.Draft202012Validator(schema).validate(media["example"])
    for parameter in operation.get("parameters", []):
        if parameter["in"] != "cookie":
            assert "example" in parameter, parameter["name"]


@pytest.mark.parametrize("operation", _operations())
def test_errors_are_documented_as_problems(operation: dict[str, Any]) -> None:
    for status, response in operation["responses"].items():
        if status.startswith(("4", "5")) and (operation["operationId"], status) != (
            "readyz",
            "503",
        ):
            assert list(response["content"]) == ["application/problem+json"]


@pytest.mark.parametrize("operation", _operations())
def test_what_any_request_may_be_answered_is_documented(operation: dict[str, Any]) -> None:
    always = {"400"}
    if "requestBody" in operation:
        always |= {"408", "413", "415", "503"}
    assert always <= operation["responses"].keys()


def test_operation_ids_are_unique() -> None:
    ids = [each.values[0]["operationId"] for each in _operations()]
    assert len(ids) == len(set(ids))


def test_the_page_answers_for_every_address_of_its_own(
    make_api: Callable[..., Api], tmp_path: Path
) -> None:
    dist = tmp_path / "dist"
    (dist / "assets").mkdir(parents=True)
    (dist / "index.html").write_text("<!doctype html>the page")
    (dist / "assets" / "index-abc.js").write_text("1")
    client = make_api(frontend_dir=dist).client
    for path in ("/", "/runs/abc", "/login", "/no/such.page", "/%2e%2e/%2e%2e/etc/passwd"):
        response = client.get(path)
        assert response.status_code == 200
        assert response.text.endswith("the page")
        assert response.headers["cache-control"] == "no-cache"
    asset = client.get("/assets/index-abc.js")
    assert asset.headers["content-type"].startswith("text/javascript")
    assert "immutable" in asset.headers["cache-control"]
    assert client.get("/assets/gone.js").status_code == 404
    assert client.post("/runs").status_code == 405


def test_a_page_that_is_not_built_says_how(make_api: Callable[..., Api], tmp_path: Path) -> None:
    response = make_api(frontend_dir=tmp_path / "nothing").client.get("/")
    assert response.status_code == 404
    assert "not built" in response.text
