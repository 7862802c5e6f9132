"""One example for every request and response of the OpenAPI document; a test checks them all."""

from typing import Any

from kdcore.figures import CURVES, KEY_RESULTS, result_figure
from kdcore.presets import preset

RUN_ID, PRUNE_ID, DISTILL_ID = "k3v9x2m4q8zt", "p4r8u2n6e1ab", "d9s1t7l3m5xy"
PIPELINE_ID, WORKER_ID, DATASET_ID, TOKEN_ID = (
    "q2w4e6r8t0yu",
    "w1o2r3k4e5r6",
    "d7c2n5w8j4pf",
    "t5o6k7e8n9id",
)
SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
TEACHER_CONFIG = preset("small-teacher").config.model_dump(mode="json")
PIPELINE_CONFIG = preset("demo").config.model_dump(mode="json")

SUMMARY: dict[str, Any] = {
    "id": RUN_ID,
    "name": "demo teacher p=0.1",
    "kind": "teacher",
    "state": "running",
    "pipeline_id": PIPELINE_ID,
    "pinned": False,
    "attempt": 1,
    "progress": {"phase": "training", "done": 120, "total": 900, "unit": "updates", "eta_s": 94.0},
    "created_at": "2026-01-15T09:30:00Z",
    "queued_at": "2026-01-15T09:30:00Z",
    "started_at": "2026-01-15T09:30:01Z",
    "finished_at": None,
    "result": None,
    "error": None,
    "inputs": [],
}
DETAIL: dict[str, Any] = SUMMARY | {
    "config": TEACHER_CONFIG,
    "worker": {"id": WORKER_ID, "hostname": "gpu-1", "device_name": "NVIDIA H100"},
    "recovering": False,
    "checkpoint_step": 100,
    "lineage": {
        "ancestors": [],
        "descendants": [
            {
                "role": "teacher",
                "id": PRUNE_ID,
                "name": "demo prune",
                "kind": "prune",
                "state": "waiting",
            }
        ],
    },
    "last_seq": 57,
    "files_removed_at": None,
}
QUEUED = DETAIL | {
    "state": "queued",
    "attempt": 0,
    "progress": None,
    "started_at": None,
    "worker": None,
    "checkpoint_step": None,
    "last_seq": 0,
}
WAITING = QUEUED | {
    "id": PRUNE_ID,
    "name": "demo prune",
    "kind": "prune",
    "state": "waiting",
    "queued_at": None,
    "config": {"kind": "prune", "teacher": {"source": "run", "run_id": RUN_ID}},
    "inputs": [{"role": "teacher", "run_id": RUN_ID}],
    "lineage": {"ancestors": [], "descendants": []},
}
DATASET = {
    "id": DATASET_ID,
    "name": "letters.txt",
    "kind": "text",
    "format": "txt",
    "columns": [],
    "size_bytes": 1_048_576,
    "documents": 12_034,
    "sha256": SHA256,
    "created_at": "2026-01-15T09:00:00Z",
}
TOKEN = {
    "id": TOKEN_ID,
    "kind": "api",
    "name": "notebook",
    "scope": "submit",
    "created_at": "2026-01-15T09:00:00Z",
    "expires_at": None,
    "last_used_at": "2026-01-15T09:29:00Z",
}
RETENTION = {
    "items": [
        {
            "run_id": RUN_ID,
            "name": "demo teacher p=0.1",
            "kind": "teacher",
            "state": "succeeded",
            "finished_at": "2026-01-15T09:34:00Z",
            "what": "result",
            "size_bytes": 21_034_552,
        }
    ],
    "total": 1,
    "size_bytes": 21_034_552,
}
EVENTS = (
    'event: run\ndata: {"id": "k3v9x2m4q8zt", "state": "running", "...": "..."}\n\n'
    'id: 57\nevent: metrics\ndata: {"step": 120, "attempt": 1, "values": {"loss": 6.31}}\n\n'
    'id: 58\nevent: log\ndata: {"time": "2026-01-15T09:31:00Z", "level": "info", '
    '"message": "checkpoint saved"}\n\n'
    'event: end\ndata: {"state": "succeeded"}\n\n'
)

REQUESTS: dict[str, Any] = {
    "sign_in": {"token": "hl_login_3q2-7wEXAMPLEonlyEXAMPLEonlyEXAMPLEonly"},
    "add_token": {"name": "notebook", "scope": "submit", "expires_days": 90},
    "submit_run": {"name": "demo teacher p=0.1", "config": TEACHER_CONFIG},
    "submit_pipeline": {"name": "demo p=0.1", "config": PIPELINE_CONFIG},
    "change_run": {"name": "the good one", "pinned": True},
    "tidy_up": {"keep_last": 3, "older_than_days": 30, "run_ids": [RUN_ID]},
    "upload_dataset": {"file": "(the bytes of letters.txt)", "name": "letters", "kind": "text"},
}
RESPONSES: dict[str, Any] = {
    "sign_in": {"scope": "admin", "csrf": None},
    "get_session": {"scope": "admin", "version": "0.1.0"},
    "list_tokens": {"items": [TOKEN], "total": 1},
    "add_token": TOKEN | {"token": "hl_3q2-7wEXAMPLEonlyEXAMPLEonlyEXAMPLEonlyEXA"},
    "list_runs": {"items": [SUMMARY], "total": 1},
    "submit_run": QUEUED,
    "submit_pipeline": {"pipeline_id": PIPELINE_ID, "runs": [QUEUED, WAITING]},
    "get_run": DETAIL,
    "change_run": DETAIL | {"name": "the good one", "pinned": True},
    "get_retention_plan": RETENTION,
    "tidy_up": RETENTION,
    "cancel_run": DETAIL | {"state": "cancelling"},
    "get_metrics": {
        "series": [{"name": "loss", "steps": [10, 20, 30], "values": [9.1, 8.4, None]}],
        "last_seq": 57,
        "sampled": False,
    },
    "get_log": {
        "items": [
            {
                "seq": 56,
                "time": "2026-01-15T09:30:40Z",
                "level": "info",
                "message": "checkpoint saved",
                "attempt": 1,
            }
        ],
        "last_seq": 57,
    },
    "stream_events": EVENTS,
    "list_artifacts": {
        "items": [
            {
                "path": "model.safetensors",
                "size_bytes": 21_034_552,
                "sha256": SHA256,
                "content_type": "application/octet-stream",
            }
        ],
        "total": 1,
    },
    "download_artifact": "(the bytes of the file)",
    "download_checkpoint": "(the bytes of a zip)",
    "download_report": "<!doctype html><html>...</html>",
    "upload_dataset": DATASET,
    "list_datasets": {"items": [DATASET], "total": 1},
    "get_dataset": DATASET,
    "get_config_schema": {"type": "object", "title": "TeacherConfig", "properties": {}},
    "get_result_schema": {
        "results": [result_figure(name).model_dump(mode="json") for name in KEY_RESULTS],
        "curves": [CURVES[0].model_dump(mode="json")],
        "key_results": list(KEY_RESULTS),
    },
    "list_presets": {
        "items": [
            {
                "id": "demo",
                "title": "Published experiment at demo scale",
                "description": "Minutes on two CPU cores, no hub.",
                "kind": "pipeline",
                "config": PIPELINE_CONFIG,
            }
        ]
    },
    "list_workers": {
        "items": [
            {
                "id": WORKER_ID,
                "hostname": "gpu-1",
                "device": "cuda:0",
                "device_name": "NVIDIA H100",
                "memory_bytes": 85_899_345_920,
                "version": "0.1.0",
                "started_at": "2026-01-15T08:00:00Z",
                "seen_at": "2026-01-15T09:31:00Z",
                "state": "busy",
                "run_id": RUN_ID,
                "note": None,
            }
        ],
        "total": 1,
    },
    "healthz": {"status": "ok"},
    "readyz": {"status": "ready", "database": "ok", "broker": "ok", "disk": "ok"},
    "prometheus_metrics": 'halflayer_runs{state="queued"} 0.0\n',
}
PARAMETERS: dict[str, Any] = {
    "run_id": RUN_ID,
    "dataset_id": DATASET_ID,
    "token_id": TOKEN_ID,
    "pipeline_id": PIPELINE_ID,
    "path": "model.safetensors",
    "kind": "teacher",
    "names": "loss,eval/loss",
    "since": 0,
    "last-event-id": "57",
    "idempotency-key": "1f0f7a1c-5f4e-4a0b-9b52-6f2f7c1d9a3e",
    "q": "demo",
    "state": "running",
    "limit": 50,
    "offset": 0,
    "max_points": 1500,
    "keep_last": 3,
    "older_than_days": 30,
}
PROBLEM = {
    "type": "urn:halflayer:problem:invalid",
    "title": "The request has a mistake",
    "status": 422,
    "detail": "/config/model/heads: 5 heads do not divide a hidden size of 768",
    "errors": [
        {"pointer": "/config/model/heads", "detail": "5 heads do not divide a hidden size of 768"}
    ],
}
