"""Whatever is wrong, the client learns what and where, as problem+json."""

from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from app.runs.states import RunState
from app.web.error_handlers import pointer
from tests.app.conftest import Api


def problem(response: Any, status: int) -> dict[str, Any]:
    """The response's body, once it has proved to be a problem of this status."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert set(body) == {"type", "title", "status", "detail", "errors"}
    assert body["status"] == status
    assert "Value error" not in response.text
    return body


def first(response: Any) -> tuple[str, str]:
    """Pointer and words of the first field that is wrong."""
    error = problem(response, 422)["errors"][0]
    return error["pointer"], error["detail"]


@pytest.mark.parametrize(
    ("config", "where", "words"),
    [
        (
            {"kind": "teacher", "model": {"source": "scratch", "hidden_size": 768, "heads": 5}},
            "/config/model/heads",
            "5 heads do not divide a hidden size of 768",
        ),
        (
            {"kind": "teacher", "model": {"source": "scratch", "layers": 0}},
            "/config/model/layers",
            "must be greater than or equal to 1",
        ),
        ({"kind": "teacher", "seq_len": 1024}, "/config/seq_len", "longer than the model's 512"),
        (
            {"kind": "teacher", "model": {"source": "scratch", "hidden_size": 30}},
            "/config/model/heads",
            "4 heads do not divide a hidden size of 30",
        ),
        (
            {"kind": "teacher", "model": {"source": "run", "run_id": "k3v9x2m4q8zt"}},
            "/config/tokenizer",
            "choose 'model'",
        ),
        (
            {"kind": "teacher", "evaluation": {"seq_len": 513}},
            "/config/evaluation/seq_len",
            "longer than the model's 512",
        ),
        (
            {
                "kind": "distill",
                "teacher": {"source": "hub"},
                "student": {"source": "scratch"},
                "loss": {"alpha_ce": 0, "alpha_mlm": 0, "alpha_cos": 0},
            },
            "/config/loss/alpha_mse",
            "at least one must be greater",
        ),
        ({"kind": "teacher", "teacher": 1}, "/config/teacher", "unknown field"),
        ({"kind": "teacher", "layers": 1}, "/config/layers", "unknown field"),
        ({"kind": "prune"}, "/config/teacher", "required"),
        (
            {"kind": "prune", "teacher": {"source": "run", "run_id": "../../etc"}},
            "/config/teacher/run_id",
            "pattern",
        ),
        (
            {
                "kind": "prune",
                "teacher": {"source": "hub"},
                "layers": {"strategy": "explicit", "layers": [0, -1]},
            },
            "/config/layers/layers/1",
            "greater than or equal to 0",
        ),
        (
            {"kind": "prune", "teacher": {"source": "hub", "name": "a/../b"}},
            "/config/teacher/name",
            "",
        ),
        ({"kind": "oracle"}, "/config", "unknown kind 'oracle'"),
        ({}, "/config", "the field 'kind' is required"),
        ({"kind": "teacher", "optimiser": 3}, "/config/optimiser", "must be an object"),
    ],
)
def test_an_invalid_config_is_named_by_pointer_and_message(
    api: Api, config: dict[str, Any], where: str, words: str
) -> None:
    found, detail = first(api.post("/runs", {"config": config}))
    assert found == where
    assert words in detail


def test_a_wrong_pipeline_points_into_its_own_part(api: Api) -> None:
    body = {"config": {"teacher": {"model": {"source": "scratch", "heads": 7}}}}
    assert first(api.post("/pipelines", body))[0] == "/config/teacher/model/heads"


@pytest.mark.parametrize(
    ("distill", "where"),
    [
        ({}, "/config/distill/lines/min_tokens"),
        ({"lines": {"min_tokens": 9}}, "/config/distill/lines/min_tokens"),
        ({"lines": {"min_tokens": 8, "max_tokens": 9}}, "/config/distill/lines/max_tokens"),
        (
            {"lines": {"min_tokens": 8}, "evaluation": {"seq_len": 9}},
            "/config/distill/evaluation/seq_len",
        ),
        (
            {"loss": {"alpha_ce": 0, "alpha_mlm": 0, "alpha_cos": 0}},
            "/config/distill/loss/alpha_mse",
        ),
    ],
)
def test_lines_that_the_models_cannot_read_are_refused_at_submit(
    api: Api, distill: dict[str, Any], where: str
) -> None:
    teacher = {"model": {"source": "scratch", "max_positions": 8}, "seq_len": 8}
    body = {"config": {"teacher": teacher, "distill": distill}}
    assert first(api.post("/pipelines", body))[0] == where


def test_the_pointer_leaves_out_variants_that_were_not_sent() -> None:
    body = {"config": {"kind": "distill", "teacher": {"source": "run", "run_id": 5}}}
    location = ("body", "config", "distill", "teacher", "run", "run_id")
    assert pointer(location, body) == "/config/teacher/run_id"


def test_the_pointer_escapes_what_json_pointers_escape() -> None:
    assert pointer(("body", "a/b", "c~d"), {"a/b": {"c~d": 1}}) == "/a~1b/c~0d"


def test_a_wrong_query_names_its_parameter(api: Api) -> None:
    assert first(api.get("/runs?limit=0"))[0] == "?limit"
    assert first(api.get("/runs?state=asleep"))[0] == "?state"


@pytest.mark.parametrize("name", ["", "  ", "x" * 201, "a\nb", "\x00", 7])
def test_a_name_is_one_line_of_text(api: Api, name: object) -> None:
    body = {"name": name, "config": {"kind": "teacher"}}
    assert first(api.post("/runs", body))[0] == "/name"


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b"[" * 100_000, b"1" * 5000, b'{"a":}'])
def test_malformed_json_is_refused_with_a_message(api: Api, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    response = api.request("POST", "/runs", content=body, headers=headers)
    assert response.status_code in (400, 422)
    problem(response, response.status_code)


@pytest.mark.parametrize("body", ["3", "null", "[]", '"text"'])
def test_json_that_is_no_object_is_refused(api: Api, body: str) -> None:
    headers = {"content-type": "application/json"}
    problem(api.request("POST", "/runs", content=body, headers=headers), 422)


@pytest.mark.parametrize("sent", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_body_of_another_type_is_415(api: Api, sent: str) -> None:
    headers = {"content-type": sent}
    problem(api.request("POST", "/runs", content="{}", headers=headers), 415)


def test_an_upload_that_is_no_form_is_415(api: Api) -> None:
    problem(api.post("/datasets", {}), 415)


def test_a_body_that_says_it_is_too_large_is_413(api: Api) -> None:
    body = {"name": "x" * (api.context.settings.max_body_bytes + 1)}
    problem(api.post("/runs", body), 413)


def test_unknown_addresses_are_404_problems(api: Api) -> None:
    for path in ("/nothing", "/runs/aaaaaaaaaaaa", "/runs/UPPER", "/runs/%00", "/schema/x", ""):
        problem(api.get(path), 404)
    problem(api.client.get("/api"), 404)
    problem(api.client.get("/api/v2/runs"), 404)


def test_a_wrong_method_is_405_and_says_which_are_right(api: Api) -> None:
    response = api.request("PUT", "/runs")
    assert "supported" in problem(response, 405)["detail"]


def test_a_database_that_is_away_is_503_with_retry_after(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = api.headers()

    def away() -> None:
        raise OperationalError("SELECT 1", {}, Exception("connection refused"))

    monkeypatch.setattr(api.context.db, "read", away)
    response = api.client.get("/api/v1/runs", headers=headers)
    problem(response, 503)
    assert int(response.headers["retry-after"]) > 0


def test_a_mistake_of_ours_is_a_500_problem_with_all_headers(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = api.headers()

    def broken() -> None:
        raise RuntimeError("secret words")

    monkeypatch.setattr(api.context.db, "read", broken)
    response = api.client.get("/api/v1/runs", headers=headers)
    assert "secret" not in problem(response, 500)["detail"]
    assert response.headers["x-content-type-options"] == "nosniff"


def test_a_conflict_says_why(api: Api) -> None:
    run_id = api.add_run(RunState.SUCCEEDED)
    assert run_id in problem(api.post(f"/runs/{run_id}/cancel"), 409)["detail"]
