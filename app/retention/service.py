"""Selects and removes files of ended runs; rows, metrics and logs are kept.

Always kept: files of pinned runs, inputs and checkpoints of unfinished runs, and the newest result
of each kind. Folders that belong to no known run are not touched.
"""

import re
import shutil
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from app.db import Database, utc_now
from app.retention.schemas import FileCategory
from app.runs.models import Artifact, Run, RunInput
from app.runs.states import FINAL, RunState
from app.schemas import ID_PATTERN
from app.settings import Settings
from app.storage import Store


@dataclass(frozen=True)
class Policy:
    """What to keep; without either limit only work folders of ended runs are removed."""

    keep_last: int | None = None
    """Results of each kind to keep, newest first."""
    older_than_days: float | None = None
    """Only runs that ended longer ago than this."""


@dataclass(frozen=True)
class Removable:
    """Files of one run that can be removed."""

    run_id: str
    name: str
    kind: str
    state: str
    finished_at: datetime | None
    what: FileCategory
    """`result`: its published files; `work`: its work folder."""
    size_bytes: int


def plan(session: Session, settings: Settings, policy: Policy) -> list[Removable]:
    """The files that the policy would remove, oldest first; removes nothing."""
    found = _results(session, policy) + _work(session, settings.work_dir, policy)
    return sorted(found, key=lambda each: (each.finished_at or utc_now(), each.run_id, each.what))


def remove_files(
    db: Database,
    settings: Settings,
    store: Store,
    policy: Policy,
    run_ids: set[str] | None = None,
) -> list[Removable]:
    """Remove the files that the policy selects, of `run_ids` only if given; returns them."""
    with db.write() as session:
        # Locked against being pinned, or used as an input, meanwhile.
        session.execute(
            select(Run.id)
            .where(Run.state == RunState.SUCCEEDED)
            .order_by(Run.created_at, Run.id)
            .with_for_update()
        )
        selected = [
            each
            for each in plan(session, settings, policy)
            if run_ids is None or each.run_id in run_ids
        ]
        results = [each.run_id for each in selected if each.what == "result"]
        session.execute(delete(Artifact).where(Artifact.run_id.in_(results)))
        session.execute(
            update(Run)
            .where(Run.id.in_(results))
            .values(files_removed_at=utc_now(), version=Run.version + 1)
            .execution_options(synchronize_session=False)
        )
    # After the commit: a leftover file is harmless, a row without its file is not.
    for each in selected:
        if each.what == "result":
            store.delete_prefix(each.run_id)
        else:
            shutil.rmtree(settings.work_dir / each.run_id, ignore_errors=True)
    return selected


def _results(session: Session, policy: Policy) -> list[Removable]:
    if policy.keep_last is None and policy.older_than_days is None:
        return []
    sizes = (
        select(Artifact.run_id, func.sum(Artifact.size_bytes).label("size_bytes"))
        .group_by(Artifact.run_id)
        .subquery()
    )
    rows = session.execute(
        select(Run, sizes.c.size_bytes)
        .join(sizes, sizes.c.run_id == Run.id)
        .where(Run.state == RunState.SUCCEEDED)
        .order_by(Run.finished_at.desc(), Run.id.desc())
    ).all()
    needed = set(
        session.scalars(
            select(RunInput.input_run_id)
            .join(Run, Run.id == RunInput.run_id)
            .where(Run.state.not_in(FINAL))
        )
    )
    newer: Counter[str] = Counter()
    found = []
    for run, size_bytes in rows:
        newer[run.kind] += 1
        if newer[run.kind] <= max(1, policy.keep_last or 1) or run.pinned or run.id in needed:
            continue
        if _is_old(run, policy):
            found.append(_removable(run, "result", int(size_bytes)))
    return found


def _work(session: Session, work_dir: Path, policy: Policy) -> list[Removable]:
    if not work_dir.is_dir():
        return []
    ids = [path.name for path in work_dir.iterdir() if re.fullmatch(ID_PATTERN, path.name)]
    runs = session.scalars(select(Run).where(Run.id.in_(ids), Run.state.in_(FINAL)))
    return [
        _removable(run, "work", size_below(work_dir / run.id))
        for run in runs
        if not run.pinned and _is_old(run, policy)
    ]


def _is_old(run: Run, policy: Policy) -> bool:
    if policy.older_than_days is None:
        return True
    limit = utc_now() - timedelta(days=policy.older_than_days)
    return run.finished_at is not None and run.finished_at < limit


def _removable(run: Run, what: FileCategory, size_bytes: int) -> Removable:
    return Removable(run.id, run.name, run.kind, run.state, run.finished_at, what, size_bytes)


def size_below(folder: Path) -> int:
    """Total size of the files below a folder; hard links count once."""
    sizes = {}
    for path in folder.rglob("*"):
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue
        if path.is_file():
            sizes[status.st_ino] = status.st_size
    return sum(sizes.values())
