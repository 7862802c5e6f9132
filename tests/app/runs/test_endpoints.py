"""Runs over HTTP, on each kind of database, with a real broker that is rung."""

from datetime import UTC, datetime
from typing import Any

import pytest

from app.runs.models import Artifact, LogLine, MetricPoint, RunInput
from app.runs.states import RunState
from app.workers.models import Worker
from kdcore.config import TeacherConfig
from tests.app.conftest import Api

TEACHER = {"kind": "teacher", "layer_drop": 0.1}


def test_a_submitted_run_is_queued_and_enqueued(api_everywhere: Api) -> None:
    api = api_everywhere
    response = api.post("/runs", {"name": "  first ", "config": TEACHER})
    assert response.status_code == 201, response.text
    run = response.json()
    assert run["name"] == "first"
    assert run["state"] == "queued"
    assert run["config"] == TeacherConfig(layer_drop=0.1).model_dump(mode="json")
    assert api.context.job_queue.length() == 1
    assert api.get(f"/runs/{run['id']}").json() == run


def test_submit_works_without_the_broker(api: Api) -> None:
    response = api.post("/runs", {"config": TEACHER})
    assert response.status_code == 201
    assert response.json()["state"] == "queued"
    assert response.json()["name"]


def test_a_pipeline_is_three_linked_runs(api_everywhere: Api) -> None:
    api = api_everywhere
    response = api.post("/pipelines", {"name": "whole", "config": {}})
    assert response.status_code == 201, response.text
    body = response.json()
    teacher, prune, distill = body["runs"]
    assert [run["kind"] for run in body["runs"]] == ["teacher", "prune", "distill"]
    assert [run["state"] for run in body["runs"]] == ["queued", "waiting", "waiting"]
    assert prune["inputs"] == [{"role": "teacher", "run_id": teacher["id"]}]
    assert {each["run_id"] for each in distill["inputs"]} == {teacher["id"], prune["id"]}
    assert api.context.job_queue.length() == 1

    def related(run_id: str, side: str) -> set[str]:
        lineage = api.get(f"/runs/{run_id}").json()["lineage"]
        return {each["id"] for each in lineage[side]}

    assert related(teacher["id"], "descendants") == {prune["id"], distill["id"]}
    assert related(distill["id"], "ancestors") == {teacher["id"], prune["id"]}
    listed = api.get(f"/runs?pipeline_id={body['pipeline_id']}").json()
    assert listed["total"] == 3


@pytest.mark.parametrize(
    ("config", "where"),
    [
        (
            {"kind": "prune", "teacher": {"source": "run", "run_id": "aaaaaaaaaaaa"}},
            "/config/teacher/run_id",
        ),
        (
            {"kind": "teacher", "corpus": {"source": "file", "path": "/etc/passwd"}},
            "/config/corpus",
        ),
        (
            {"kind": "teacher", "corpus": {"source": "upload", "dataset_id": "aaaaaaaaaaaa"}},
            "/config/corpus/dataset_id",
        ),
    ],
)
def test_what_cannot_work_is_refused_at_submit(
    api: Api, config: dict[str, Any], where: str
) -> None:
    response = api.post("/runs", {"config": config})
    assert response.status_code == 422, response.text
    assert response.json()["errors"][0]["pointer"].startswith(where)
    assert api.get("/runs").json()["total"] == 0


def test_a_pipeline_that_keeps_too_many_layers_is_refused(api: Api) -> None:
    config = {"prune": {"layers": {"strategy": "first_k", "k": 7}}}
    response = api.post("/pipelines", {"config": config})
    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] == "/config/prune/layers/k"


def test_lists_are_newest_first_with_filters_and_pages(api_everywhere: Api) -> None:
    api = api_everywhere
    ids = [api.post("/runs", {"name": f"n{i}", "config": TEACHER}).json()["id"] for i in range(4)]
    api.post(f"/runs/{ids[0]}/cancel")
    body = api.get("/runs").json()
    assert [run["id"] for run in body["items"]] == ids[::-1]
    assert body["total"] == 4
    page = api.get("/runs?limit=2&offset=1").json()
    assert [run["id"] for run in page["items"]] == [ids[2], ids[1]]
    assert [r["id"] for r in api.get("/runs?state=cancelled").json()["items"]] == [ids[0]]
    assert [r["id"] for r in api.get("/runs?q=N2").json()["items"]] == [ids[2]]
    assert api.get("/runs?q=%25").json()["total"] == 0
    assert api.get("/runs?q=%00%0a").json()["total"] == 4
    assert api.get("/runs?kind=prune").json()["total"] == 0


def test_rename_cancel_and_delete(api_everywhere: Api) -> None:
    api = api_everywhere
    run_id = api.post("/runs", {"config": TEACHER}).json()["id"]
    renamed = api.request("PATCH", f"/runs/{run_id}", json={"name": "<b>new</b>"})
    assert renamed.json()["name"] == "<b>new</b>"
    assert api.post(f"/runs/{run_id}/cancel").json()["state"] == "cancelled"
    assert api.post(f"/runs/{run_id}/cancel").status_code == 409
    folder = api.context.settings.work_dir / run_id
    folder.mkdir(parents=True)
    assert api.request("DELETE", f"/runs/{run_id}").status_code == 204
    assert not folder.exists()
    assert api.get(f"/runs/{run_id}").status_code == 404


def test_deleting_takes_curves_log_and_files_along(api_everywhere: Api, tmp_path: Any) -> None:
    api = api_everywhere
    run_id = api.add_run(RunState.SUCCEEDED, event_seq=2)
    (tmp_path / "f").write_bytes(b"x")
    api.context.store.put_file(tmp_path / "f", f"{run_id}/1/f")
    api.add(
        MetricPoint(run_id=run_id, seq=1, name="loss", attempt=1, step=1, value=1.0),
        LogLine(run_id=run_id, seq=2, attempt=1, time=datetime.now(UTC), level="info", message="x"),
        Artifact(
            run_id=run_id,
            path="f",
            attempt=1,
            size_bytes=1,
            sha256="0" * 64,
            storage_key=f"{run_id}/1/f",
        ),
    )
    assert api.request("DELETE", f"/runs/{run_id}").status_code == 204
    with api.context.db.read() as session:
        for table in (MetricPoint, LogLine, Artifact):
            assert session.query(table).count() == 0
    with pytest.raises(FileNotFoundError):
        api.context.store.size(f"{run_id}/1/f")


def test_the_detail_shows_worker_progress_error_and_recovery(api: Api) -> None:
    worker = Worker(
        id="w" * 12,
        hostname="gpu-1",
        pid=1,
        device="cuda:0",
        device_name="H100",
        version="0.1.0",
        note="the card is gone",
    )
    api.add(worker)
    running = api.add_run(
        RunState.RUNNING,
        attempt=2,
        worker_id="w" * 12,
        phase="training",
        progress_done=3.0,
        progress_total=None,
        progress_unit="steps",
    )
    body = api.get(f"/runs/{running}").json()
    assert body["worker"] == {"id": "w" * 12, "hostname": "gpu-1", "device_name": "H100"}
    assert body["recovering"] is True
    assert body["progress"]["total"] is None
    workers = api.get("/workers").json()["items"]
    assert [(each["state"], each["run_id"]) for each in workers] == [("busy", running)]
    assert workers[0]["note"] == "the card is gone"
    failed = api.add_run(RunState.FAILED, error_code="nan", error_message="loss is NaN", attempt=1)
    body = api.get(f"/runs/{failed}").json()
    assert body["error"] == {"code": "nan", "message": "loss is NaN"}
    assert body["recovering"] is False


def test_the_log_opens_at_its_end_and_goes_on_from_there(api: Api) -> None:
    run_id = api.add_run(event_seq=10)
    for seq in range(1, 11):
        api.add(
            LogLine(
                run_id=run_id,
                seq=seq,
                attempt=1,
                time=datetime.now(UTC),
                level="info",
                message=f"line {seq}",
            )
        )
    newest = api.get(f"/runs/{run_id}/log?limit=3").json()
    assert [each["seq"] for each in newest["items"]] == [8, 9, 10]
    assert newest["last_seq"] == 10
    some = api.get(f"/runs/{run_id}/log?since=2&limit=3").json()
    assert [each["seq"] for each in some["items"]] == [3, 4, 5]
    assert some["last_seq"] == 5
    assert api.get(f"/runs/{run_id}/log?since=10").json() == {"items": [], "last_seq": 10}


def test_a_report_needs_nothing_else_and_its_text_stays_text(api: Api) -> None:
    evil = "</script><script>alert(1)</script>"
    parent = api.add_run(RunState.SUCCEEDED, name=f"parent {evil}")
    run_id = api.add_run(
        RunState.SUCCEEDED,
        name=evil,
        event_seq=2,
        result={"eval_loss": 6.1234567, evil: evil},
        config={"kind": "teacher", "corpus": {"column": evil}},
    )
    api.add(
        RunInput(run_id=run_id, role="model", input_run_id=parent),
        *[
            MetricPoint(run_id=run_id, seq=seq, name=name, attempt=1, step=seq, value=2.0)
            for seq in (1, 2)
            for name in ("loss", f"x{evil}")
        ],
    )
    response = api.get(f"/runs/{run_id}/report")
    assert response.status_code == 200
    assert response.headers["content-disposition"].startswith("attachment;")
    html = response.text
    assert "<script>alert" not in html
    assert "<th>Eval loss</th><td>6.1235 nats</td>" in html
    assert "parent &lt;/script&gt;" in html
    assert len(html) > 1_000_000, "plotly.js is inside"
    assert 'src="http' not in html
    assert "cdn" not in html.partition("<h2>Curves</h2>")[0]


def test_a_report_shows_what_the_run_ran_on_not_what_the_server_is(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.runs.report.__version__", "9.9.9")
    run_id = api.add_run(
        RunState.SUCCEEDED,
        config={"kind": "teacher", "seed": 4711, "precision": "auto"},
        result={"precision": "bf16"},
        environment={
            "versions": {"halflayer": "0.0.7", "torch": "1.2.3+cu<b>"},
            "device": "NVIDIA Imaginary 5000",
        },
    )
    html = api.get(f"/runs/{run_id}/report").text
    environment = html.partition("<h2>Environment</h2>")[2]
    for row in (
        "<th>Device</th><td>NVIDIA Imaginary 5000</td>",
        "<th>Precision</th><td>bf16</td>",
        "<th>Seed</th><td>4711</td>",
        "<th>halflayer version</th><td>0.0.7</td>",
        "<th>torch version</th><td>1.2.3+cu&lt;b&gt;</td>",
    ):
        assert row in environment
    assert html.count("9.9.9") == 1
    assert "Report made by Halflayer 9.9.9." in environment
    untold = api.get(f"/runs/{api.add_run()}/report").text
    assert "<th>Device</th><td>-</td>" in untold


def test_readiness_and_metrics(api_everywhere: Api) -> None:
    api = api_everywhere
    ready = api.client.get("/readyz")
    assert ready.json() == {"status": "ready", "database": "ok", "broker": "ok", "disk": "ok"}
    api.post("/runs", {"config": TEACHER})
    text = api.client.get("/metrics", headers=api.headers("read")).text
    assert 'halflayer_runs{state="queued"} 1.0' in text
    assert "halflayer_queue_length 1.0" in text
    assert 'route="submit_run"' in text


def test_without_the_broker_the_server_is_degraded_but_serves(api: Api) -> None:
    response = api.client.get("/readyz")
    assert response.status_code == 200
    assert response.json()["status"] == "degraded"


def test_without_its_folder_the_server_is_not_ready(api: Api) -> None:
    api.context.settings.data_dir.rename(api.context.settings.data_dir.with_name("gone"))
    response = api.client.get("/readyz")
    assert response.status_code == 503
    assert response.json()["disk"] == "failed"
