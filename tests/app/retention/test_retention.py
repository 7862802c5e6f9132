"""Cleanup removes what the policy allows, and never what is still needed."""

from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from app.cli import main as cli
from app.db import utc_now
from app.runs.models import Artifact, RunInput
from app.runs.states import RunState
from tests.app.conftest import Api

EVERYTHING = "keep_last=1&older_than_days=0"


def ended(api: Api, days_ago: float, state: RunState = RunState.SUCCEEDED, **values: object) -> str:
    """A run that ended so long ago, with a published file if it succeeded, and a work folder."""
    run_id = api.add_run(state, finished_at=utc_now() - timedelta(days=days_ago), **values)
    if state is RunState.SUCCEEDED:
        key = f"{run_id}/1/model.safetensors"
        local = api.context.settings.data_dir / "incoming"
        local.write_bytes(b"x" * 1000)
        api.context.store.put_file(local, key)
        api.add(Artifact(run_id=run_id, path="model.safetensors", attempt=1, size_bytes=1000,
                         sha256="0" * 64, storage_key=key))  # fmt: skip
    return run_id


def left_work(api: Api, run_id: str, size_bytes: int = 500) -> Path:
    folder = api.context.settings.work_dir / run_id / "attempt-1" / "checkpoints" / "step-00000001"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"x" * size_bytes)
    return folder


def listed(api: Api, query: str = EVERYTHING) -> list[tuple[str, str]]:
    response = api.get(f"/retention?{query}")
    assert response.status_code == 200, response.text
    body = response.json()
    assert body["total"] == len(body["items"])
    assert body["size_bytes"] == sum(each["size_bytes"] for each in body["items"])
    return [(each["run_id"], each["what"]) for each in body["items"]]


def clean_up(api: Api, *run_ids: str) -> list[str]:
    body = {"keep_last": 1, "older_than_days": 0, "run_ids": list(run_ids)}
    response = api.post("/retention", body)
    assert response.status_code == 200, response.text
    return [each["run_id"] for each in response.json()["items"]]


def has_file(api: Api, run_id: str) -> bool:
    in_store = (api.context.settings.data_dir / "artifacts" / run_id).exists()
    assert in_store == bool(api.get(f"/runs/{run_id}/artifacts").json()["total"])
    return in_store


def test_the_newest_of_each_kind_stay(api_everywhere: Api) -> None:
    api = api_everywhere
    teachers = [ended(api, days) for days in (4, 3, 2, 1)]
    student = ended(api, 9, kind="distill")
    assert listed(api, "keep_last=2") == [(teachers[0], "result"), (teachers[1], "result")]
    assert listed(api, "keep_last=2&older_than_days=3.5") == [(teachers[0], "result")]
    assert listed(api, "older_than_days=0") == [(each, "result") for each in teachers[:3]]
    assert listed(api, "") == []

    assert clean_up(api, *teachers, student) == teachers[:3]

    assert [has_file(api, each) for each in teachers] == [False, False, False, True]
    assert has_file(api, student)
    gone = api.get(f"/runs/{teachers[0]}").json()
    assert (gone["state"], gone["files_removed_at"] is not None) == ("succeeded", True)
    assert listed(api) == []
    assert clean_up(api, *teachers) == []


def test_failed_runs_do_not_count_as_results(api: Api) -> None:
    good, bad = ended(api, 5), ended(api, 1, RunState.FAILED)
    assert listed(api) == []
    assert clean_up(api, good, bad) == []
    assert has_file(api, good)


def test_what_is_pinned_stays(api_everywhere: Api) -> None:
    api = api_everywhere
    pinned, other, _newest = (ended(api, days) for days in (3, 2, 1))
    assert api.request("PATCH", f"/runs/{pinned}", json={"pinned": True}).json()["pinned"]
    failed = ended(api, 3, RunState.FAILED, pinned=True)
    folder = left_work(api, failed)
    assert listed(api) == [(other, "result")]
    assert clean_up(api, pinned, other, failed) == [other]
    assert has_file(api, pinned)
    assert folder.exists()
    refused = api.request("DELETE", f"/runs/{pinned}")
    assert (refused.status_code, "pinned" in refused.json()["detail"]) == (409, True)
    renamed = api.request("PATCH", f"/runs/{pinned}", json={"name": "best"}).json()
    assert (renamed["name"], renamed["pinned"]) == ("best", True)
    assert not api.request("PATCH", f"/runs/{pinned}", json={"pinned": False}).json()["pinned"]
    assert listed(api) == [(pinned, "result")]


@pytest.mark.parametrize("state", [s for s in RunState if s.value in "waiting queued running"])
def test_an_input_of_a_run_that_has_not_ended_stays(api: Api, state: RunState) -> None:
    source, _newest = ended(api, 3), ended(api, 1)
    dependant = api.add_run(state, kind="prune")
    api.add(RunInput(run_id=dependant, role="teacher", input_run_id=source))
    assert listed(api) == []
    assert clean_up(api, source) == []
    assert has_file(api, source)


@pytest.mark.parametrize("state", list(RunState))
def test_work_goes_only_when_its_run_has_ended(api: Api, state: RunState) -> None:
    run_id = api.add_run(state, finished_at=utc_now() - timedelta(days=2))
    folder = left_work(api, run_id)
    stranger = left_work(api, "nobodysrun00")
    may_go = state in (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED, RunState.SKIPPED)
    assert listed(api, "") == ([(run_id, "work")] if may_go else [])
    assert listed(api, "older_than_days=3") == []
    assert clean_up(api, run_id, "nobodysrun00") == ([run_id] if may_go else [])
    assert folder.exists() != may_go
    assert stranger.exists()


def test_only_the_given_runs_are_removed(api: Api) -> None:
    first, second, _newest = (ended(api, days) for days in (3, 2, 1))
    assert clean_up(api, second) == [second]
    assert has_file(api, first)


def test_a_run_without_files_is_refused_as_input(api: Api) -> None:
    gone, _newest = ended(api, 3), ended(api, 1)
    assert clean_up(api, gone) == [gone]
    start = {"source": "run", "run_id": gone}
    config = {"kind": "teacher", "model": start, "tokenizer": {"source": "model"}}
    refused = api.post("/runs", {"config": config})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"] == "/config/model/run_id"
    assert "removed by cleanup" in refused.json()["errors"][0]["detail"]


def test_the_command(api: Api) -> None:
    settings = api.context.settings
    old, new = ended(api, 3), ended(api, 1)
    failed = ended(api, 2, RunState.FAILED)
    left_work(api, failed, 5000)

    def command(*words: str, input: str | None = None) -> Result:
        environment = {
            "HALFLAYER_DATABASE_URL": settings.resolved_database_url,
            "HALFLAYER_DATA_DIR": str(settings.data_dir),
            "COLUMNS": "200",
        }
        return CliRunner().invoke(cli.app, ["cleanup", *words], env=environment, input=input)

    shown = command("--keep-last", "1", "--dry-run")
    assert shown.exit_code == 0, shown.output
    assert old in shown.output
    assert failed in shown.output
    assert new not in shown.output
    assert "5.9 KiB would be removed" in shown.output
    assert command("--keep-last", "1", input="n\n").exit_code == 1
    assert has_file(api, old)
    assert "4.9 KiB removed" in command(input="y\n").output
    assert has_file(api, old)
    assert "1000 B removed" in command("--keep-last", "1", "--yes").output
    assert not has_file(api, old)
    assert has_file(api, new)
    assert "Nothing to remove" in command("--keep-last", "1", "--yes").output
