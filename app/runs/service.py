"""Submits, lists, renames, pins and deletes runs; knows no HTTP.

Functions flush and never commit; endpoints commit, and then enqueue the queued runs. States change
in `app.runs.transitions` only.
"""

from dataclasses import asdict

from sqlalchemy import delete as sql_delete
from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from app.db import new_id, utc_now
from app.errors import Conflict, FieldProblem, Invalid
from app.runs.models import Run, RunInput
from app.runs.states import FINAL, UNSUCCESSFUL, RunState
from app.runs.transitions import RunNotFound
from app.runs.validation import AnyConfig, Findings, check_shapes, validate
from kdcore.config import (
    DistillConfig,
    PipelineConfig,
    PruneConfig,
    RunCheckpoint,
    ScratchModel,
    TeacherConfig,
)


def submit(
    session: Session, config: AnyConfig, name: str | None = None, pipeline_id: str | None = None
) -> Run:
    """Accept a run: queued, or waiting until its inputs have succeeded.

    Raises Invalid, with pointers relative to the config.
    """
    findings = validate(session, config)
    findings.raise_if_invalid()
    return _insert(session, config, name or default_name(config), pipeline_id, findings)


def submit_pipeline(session: Session, config: PipelineConfig, name: str | None = None) -> list[Run]:
    """Accept teacher, prune and distill, each waiting for the one before.

    Raises Invalid, with pointers relative to the pipeline's config, before anything is stored.
    """
    findings = validate(session, config.teacher)
    problems = [
        FieldProblem("/teacher" + problem.pointer, problem.detail) for problem in findings.problems
    ]
    problems += _pipeline_problems(config, findings)
    if problems:
        raise Invalid("; ".join(problem.detail for problem in problems), problems)
    pipeline_id = new_id()
    teacher = submit(session, config.teacher, name and f"{name}: teacher", pipeline_id)
    teacher_ref = RunCheckpoint(run_id=teacher.id)
    pruned = submit(
        session, config.prune_config(teacher_ref), name and f"{name}: prune", pipeline_id
    )
    distilled = submit(
        session,
        config.distill_config(teacher_ref, RunCheckpoint(run_id=pruned.id)),
        name and f"{name}: distill",
        pipeline_id,
    )
    return [teacher, pruned, distilled]


def _pipeline_problems(config: PipelineConfig, teacher: Findings) -> list[FieldProblem]:
    """Problems of the prune and distill parts, as far as the teacher's shape is known."""
    if teacher.problems:
        return []
    placeholder = RunCheckpoint(run_id="0" * 12)
    pruned, distilled = Findings(), Findings()
    check_shapes(config.prune_config(placeholder), {"teacher": teacher.shape}, pruned)
    if not pruned.problems:
        check_shapes(
            config.distill_config(placeholder, placeholder),
            {"teacher": teacher.shape, "student": pruned.shape},
            distilled,
        )
    return [
        FieldProblem(f"/{part}{problem.pointer}", problem.detail)
        for part, findings in (("prune", pruned), ("distill", distilled))
        for problem in findings.problems
    ]


def _insert(
    session: Session, config: AnyConfig, name: str, pipeline_id: str | None, findings: Findings
) -> Run:
    ready = all(run.state == RunState.SUCCEEDED for run in findings.inputs.values())
    run = Run(
        id=new_id(),
        name=name,
        kind=config.kind,
        state=RunState.QUEUED if ready else RunState.WAITING,
        config=config.model_dump(mode="json"),
        shape=asdict(findings.shape) if findings.shape is not None else None,
        pipeline_id=pipeline_id,
        created_at=utc_now(),
        queued_at=utc_now() if ready else None,
    )
    run.inputs = [
        RunInput(role=role, input_run_id=source.id) for role, source in findings.inputs.items()
    ]
    session.add(run)
    session.flush()
    return run


def default_name(config: AnyConfig) -> str:
    """A name made of the main settings."""
    match config:
        case TeacherConfig(model=ScratchModel() as model):
            return f"Teacher {model.layers} x {model.hidden_size}, LayerDrop {config.layer_drop:g}"
        case TeacherConfig():
            return f"Teacher, LayerDrop {config.layer_drop:g}"
        case PruneConfig():
            return f"Prune, {config.layers.strategy.replace('_', ' ')}"
        case DistillConfig():
            return f"Distillation, temperature {config.loss.temperature:g}"


def get_run(session: Session, run_id: str) -> Run:
    """The run; raises RunNotFound."""
    run = session.get(Run, run_id)
    if run is None:
        raise RunNotFound(run_id)
    return run


def list_runs(
    session: Session,
    *,
    state: str | None = None,
    kind: str | None = None,
    pipeline_id: str | None = None,
    query: str | None = None,
    limit: int = 50,
    offset: int = 0,
) -> tuple[list[Run], int]:
    """One page of runs, newest first, and how many match in all; `query` searches name and id."""
    statement = select(Run)
    if state is not None:
        statement = statement.where(Run.state == state)
    if kind is not None:
        statement = statement.where(Run.kind == kind)
    if pipeline_id is not None:
        statement = statement.where(Run.pipeline_id == pipeline_id)
    if query:
        statement = statement.where(
            or_(Run.name.icontains(query, autoescape=True), Run.id == query.strip().lower())
        )
    total = session.scalar(select(func.count()).select_from(statement.subquery())) or 0
    page = statement.order_by(Run.created_at.desc(), Run.id.desc()).limit(limit).offset(offset)
    return list(session.scalars(page)), total


def change(
    session: Session, run_id: str, *, name: str | None = None, pinned: bool | None = None
) -> Run:
    """Rename, pin or unpin the run; None leaves a field unchanged."""
    run = get_run(session, run_id)
    run.name = run.name if name is None else name
    run.pinned = run.pinned if pinned is None else pinned
    run.version = Run.version + 1
    session.flush()
    session.refresh(run)
    return run


def delete(session: Session, run_id: str) -> None:
    """Delete an ended run that no other run needs.

    Call `app.storage.remove_run_files` after the commit, so that no row is left without its files.
    """
    run = session.get(Run, run_id, with_for_update=True, populate_existing=True)
    if run is None:
        raise RunNotFound(run_id)
    if RunState(run.state) not in FINAL:
        raise Conflict(f"Run {run_id} is {run.state}: cancel it first.")
    if run.pinned:
        raise Conflict(f"Run {run_id} is pinned: unpin it first.")
    dependant = session.scalars(
        select(Run)
        .join(RunInput, RunInput.run_id == Run.id)
        .where(RunInput.input_run_id == run_id, Run.state.not_in(UNSUCCESSFUL))
        .order_by(Run.created_at)
        .limit(1)
    ).one_or_none()
    if dependant is not None:
        raise Conflict(
            f"Run {dependant.id} ({dependant.name}) depends on run {run_id}: delete it first."
        )
    session.execute(sql_delete(RunInput).where(RunInput.input_run_id == run_id))
    # Not through the ORM: the cascade of the database removes points without loading them.
    session.execute(
        sql_delete(Run)
        .where(Run.id == run_id, Run.state.in_(FINAL))
        .execution_options(synchronize_session=False)
    )
    session.expunge(run)
