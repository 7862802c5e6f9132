"""Runs and pipelines over HTTP: checks scopes, calls services, commits."""

import re
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.responses import StreamingResponse

from app.auth.dependencies import CurrentPrincipal, GuardedRoute, needs_read, needs_submit
from app.context import Context, Ctx
from app.errors import FieldProblem, Invalid
from app.idempotency import Once
from app.runs import service
from app.runs.artifacts import (
    archive_response,
    artifact_file,
    disposition,
    file_response,
    find_row,
    list_rows,
)
from app.runs.lifecycle import cancel
from app.runs.models import Run
from app.runs.report import render_report
from app.runs.schemas import (
    ArtifactList,
    ChangeRun,
    PipelineRuns,
    RunDetail,
    RunList,
    RunLog,
    RunMetrics,
    SubmitPipeline,
    SubmitRun,
)
from app.runs.series import DEFAULT_POINTS, MIN_POINTS, run_metrics
from app.runs.states import RunState
from app.runs.views import run_detail, run_log, run_summary
from app.schemas import Id, RunIdPath
from app.storage import remove_run_files
from kdcore.config import Kind

READ = [Depends(needs_read)]
SUBMIT = [Depends(needs_submit)]
MAX_SEQ = 2**62
CONTROL = re.compile(r"[\x00-\x1f\x7f]")

router = APIRouter(prefix="/runs", tags=["runs"], route_class=GuardedRoute)
pipelines = APIRouter(prefix="/pipelines", tags=["runs"], route_class=GuardedRoute)

Since = Annotated[
    int, Query(ge=0, le=MAX_SEQ, description="Only what has a greater sequence number.")
]
FilePath = Annotated[
    str, Path(examples=["model.safetensors"], description="Path of the file, as listed.")
]
BINARY = {"schema": {"type": "string", "format": "binary", "examples": ["(the file's bytes)"]}}
EVENTS = {
    "type": "string",
    "examples": [
        'event: run\ndata: {"id": "k3v9x2m4q8zt", "state": "running", "...": "..."}\n\n'
        'event: metrics\ndata: {"step": 120, "attempt": 1, "values": {"loss": 6.31}}\nid: 57\n\n'
        'event: log\ndata: {"time": "2026-01-15T09:31:00Z", "level": "info", '
        '"message": "checkpoint saved"}\nid: 58\n\n'
        'event: end\ndata: {"state": "succeeded"}\n\n'
    ],
}


@router.post("", status_code=201, dependencies=SUBMIT)
def submit_run(body: SubmitRun, ctx: Ctx, once: Once) -> RunDetail:
    """Submit a run; it starts when a worker is free and its inputs have succeeded."""
    with ctx.db.write() as session:
        once.begin(session, body.model_dump_json())
        try:
            run = service.submit(session, body.config, body.name)
        except Invalid as error:
            raise _below_config(error) from error
        detail = run_detail(session, run)
        once.end(detail.model_dump_json())
    _enqueue(ctx, [run])
    return detail


@pipelines.post("", status_code=201, dependencies=SUBMIT)
def submit_pipeline(body: SubmitPipeline, ctx: Ctx, once: Once) -> PipelineRuns:
    """Submit teacher, prune and distill as three linked runs."""
    with ctx.db.write() as session:
        once.begin(session, body.model_dump_json())
        try:
            runs = service.submit_pipeline(session, body.config, body.name)
        except Invalid as error:
            raise _below_config(error) from error
        details = [run_detail(session, run) for run in runs]
        pipeline = PipelineRuns(pipeline_id=runs[0].pipeline_id or "", runs=details)
        once.end(pipeline.model_dump_json())
    _enqueue(ctx, runs)
    return pipeline


@router.get("", dependencies=READ)
def list_runs(
    ctx: Ctx,
    state: Annotated[RunState | None, Query(description="Only runs in this state.")] = None,
    kind: Annotated[Kind | None, Query(description="Only runs of this kind.")] = None,
    pipeline_id: Annotated[
        Id | None, Query(max_length=12, description="Only runs of this pipeline.")
    ] = None,
    q: Annotated[
        str | None,
        Query(max_length=200, examples=["demo"], description="Part of the name, or an id."),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=200, description="Runs on a page.")] = 50,
    offset: Annotated[int, Query(ge=0, le=10**9, description="Runs to skip.")] = 0,
) -> RunList:
    """Runs, newest first."""
    query = CONTROL.sub(" ", q).strip() if q else None
    pipeline = CONTROL.sub(" ", pipeline_id) if pipeline_id else None
    with ctx.db.read() as session:
        runs, total = service.list_runs(
            session,
            state=state,
            kind=kind,
            pipeline_id=pipeline,
            query=query or None,
            limit=limit,
            offset=offset,
        )
        return RunList(items=[run_summary(run) for run in runs], total=total)


@router.get("/{run_id}", dependencies=READ)
def get_run(run_id: RunIdPath, ctx: Ctx) -> RunDetail:
    """One run with its config, worker and lineage."""
    with ctx.db.read() as session:
        return run_detail(session, service.get_run(session, run_id))


@router.patch("/{run_id}", dependencies=SUBMIT)
def change_run(run_id: RunIdPath, body: ChangeRun, ctx: Ctx) -> RunDetail:
    """Rename a run, or pin it, which excludes its files from cleanup."""
    with ctx.db.write() as session:
        run = service.change(session, run_id, name=body.name, pinned=body.pinned)
        return run_detail(session, run)


@router.post("/{run_id}/cancel", dependencies=SUBMIT)
def cancel_run(run_id: RunIdPath, ctx: Ctx) -> RunDetail:
    """Stop a run permanently; metrics and log are kept, no checkpoint is saved.

    Runs that depend on it are skipped.
    """
    with ctx.db.write() as session:
        return run_detail(session, cancel(session, run_id))


@router.delete("/{run_id}", status_code=204, dependencies=SUBMIT)
def delete_run(run_id: RunIdPath, ctx: Ctx) -> None:
    """Delete a run that has ended, with its metrics, log and files."""
    with ctx.db.write() as session:
        service.delete(session, run_id)
    # After the commit: a leftover file is harmless, a row without its file is not.
    remove_run_files(ctx.settings, ctx.store, run_id)


@router.get("/{run_id}/metrics", dependencies=READ)
def get_metrics(
    run_id: RunIdPath,
    ctx: Ctx,
    names: Annotated[
        str | None,
        Query(
            max_length=2000,
            examples=["loss,eval/loss"],
            description="Names of metrics, separated by commas; all by default.",
        ),
    ] = None,
    since: Since = 0,
    max_points: Annotated[
        int, Query(ge=MIN_POINTS, le=100_000, description="Points per metric; spikes are kept.")
    ] = DEFAULT_POINTS,
) -> RunMetrics:
    """The metrics of a run; long series are reduced to the minimum and maximum of equal buckets."""
    wanted = [CONTROL.sub(" ", name) for name in names.split(",") if name] if names else None
    with ctx.db.read() as session:
        run = service.get_run(session, run_id)
        return run_metrics(session, run, wanted, since, max_points)


@router.get("/{run_id}/log", dependencies=READ)
def get_log(
    run_id: RunIdPath,
    ctx: Ctx,
    since: Since = 0,
    limit: Annotated[int, Query(ge=1, le=5000, description="Lines to return.")] = 500,
) -> RunLog:
    """Log lines after `since`, oldest first; without `since` the newest lines."""
    with ctx.db.read() as session:
        return run_log(session, service.get_run(session, run_id), since, limit)


@router.get(
    "/{run_id}/events",
    dependencies=READ,
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {"schema": EVENTS}}}},
)
async def stream_events(
    run_id: RunIdPath,
    ctx: Ctx,
    principal: CurrentPrincipal,
    last_event_id: Annotated[
        str | None,
        Header(examples=["57"], description="Sequence number of the last event received."),
    ] = None,
    since: Since = 0,
) -> Response:
    """Metrics, log lines and state changes of a run as server-sent events.

    `metrics` and `log` carry their sequence number as id; `run` is the run itself; `end` is the
    last event. A stream without `end` was interrupted, or its token was revoked.
    """
    await ctx.streams.require_run(run_id)
    after = since
    if last_event_id is not None and last_event_id.isdecimal() and len(last_event_id) < 19:
        after = int(last_event_id)
    return ctx.streams.response(run_id, after, principal.token_id)


@router.get("/{run_id}/artifacts", dependencies=READ)
def list_artifacts(run_id: RunIdPath, ctx: Ctx) -> ArtifactList:
    """The files of a run that succeeded."""
    with ctx.db.read() as session:
        service.get_run(session, run_id)
        items = [artifact_file(row) for row in list_rows(session, run_id)]
    return ArtifactList(items=items, total=len(items))


@router.get(
    "/{run_id}/artifacts/{path:path}",
    dependencies=READ,
    response_class=StreamingResponse,
    responses={
        200: {"content": {"application/octet-stream": BINARY}},
        206: {
            "description": "The requested range",
            "content": {"application/octet-stream": BINARY},
        },
        304: {"description": "Not modified"},
    },
)
def download_artifact(run_id: RunIdPath, path: FilePath, request: Request, ctx: Ctx) -> Response:
    """One file; supports a single Range and If-None-Match. Its ETag is its SHA-256."""
    with ctx.db.read() as session:
        row = find_row(session, run_id, path)
    return file_response(request, ctx.reader, row)


@router.get(
    "/{run_id}/checkpoint",
    dependencies=READ,
    response_class=StreamingResponse,
    responses={200: {"content": {"application/zip": BINARY}}},
)
def download_checkpoint(run_id: RunIdPath, ctx: Ctx) -> Response:
    """All files of a run as one zip, a folder that `transformers` loads directly."""
    with ctx.db.read() as session:
        run = service.get_run(session, run_id)
        rows = list_rows(session, run_id)
    return archive_response(ctx.reader, run, rows)


@router.get(
    "/{run_id}/report",
    dependencies=READ,
    response_class=Response,
    responses={200: {"content": {"text/html": {"schema": {"type": "string"}}}}},
)
def download_report(run_id: RunIdPath, ctx: Ctx) -> Response:
    """A self-contained HTML file: metrics, config, results, lineage, versions."""
    with ctx.db.read() as session:
        html = render_report(session, service.get_run(session, run_id))
    headers = {"Content-Disposition": disposition(f"halflayer-{run_id}.html")}
    return Response(html, media_type="text/html", headers=headers)


def _enqueue(ctx: Context, runs: list[Run]) -> None:
    """Enqueue the queued runs; while the broker is unavailable they are delayed, not lost."""
    for run in runs:
        if run.state == RunState.QUEUED:
            ctx.job_queue.enqueue(run.id)


def _below_config(error: Invalid) -> Invalid:
    """The same error with pointers into the request body instead of the config."""
    problems = [FieldProblem(f"/config{each.pointer}", each.detail) for each in error.problems]
    return Invalid(error.detail, problems)
