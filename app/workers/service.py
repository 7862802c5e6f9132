"""State and resource usage of workers, for people and Prometheus; no decision is based on it."""

from collections import Counter
from datetime import timedelta
from typing import get_args

from prometheus_client import Metric
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db import utc_now
from app.monitoring.prometheus import labelled_gauge
from app.runs.models import Run
from app.runs.states import ACTIVE
from app.schemas import fields_of
from app.workers.heartbeat_age import HeartbeatAges
from app.workers.models import Worker
from app.workers.schemas import WorkerInfo, WorkerState

MAX_SHOWN = 500
_FROM_WORKERS = {
    "halflayer_worker_heartbeat_age_seconds": (
        "Time since this API last saw a heartbeat of the worker.",
        "heartbeat_age_s",
    ),
    "halflayer_worker_cpu_cores": ("Processor cores in use by worker and trainer.", "cpu_cores"),
    "halflayer_worker_memory_bytes": ("Memory of worker and trainer.", "memory_bytes"),
    "halflayer_device_busy_ratio": ("Share of time in which the GPU was busy.", "device_busy"),
    "halflayer_device_memory_used_bytes": (
        "Memory of the GPU in use, by all processes.",
        "device_memory_used_bytes",
    ),
    "halflayer_device_memory_bytes": ("Memory of the device.", "device_memory_bytes"),
}
"""Metrics of each worker: name, help text, and key in its usage."""


def count_by_state(session: Session, lease_s: float) -> dict[tuple[str, ...], float]:
    """Number of workers by state."""
    counted = Counter(info.state for info in worker_infos(session, lease_s))
    return {(state,): float(counted[state]) for state in get_args(WorkerState)}


def worker_metrics(session: Session, ages: HeartbeatAges) -> list[Metric]:
    """Heartbeat age and reported resource usage of each worker."""
    rows = list(session.scalars(select(Worker).where(Worker.stopped_at.is_(None))))
    ages_s = ages.ages_s({row.id: row.beat for row in rows})
    values: dict[str, dict[tuple[str, ...], float]] = {name: {} for name in _FROM_WORKERS}
    for row in rows:
        labels = (row.id, row.hostname, row.device)
        found = (row.usage or {}) | {
            "heartbeat_age_s": ages_s[row.id],
            "device_memory_bytes": row.memory_bytes,
        }
        for name, (_, key) in _FROM_WORKERS.items():
            value = found.get(key)
            if isinstance(value, int | float):
                values[name][labels] = float(value)
    return [
        labelled_gauge(name, help_text, ("worker", "host", "device"), values[name])
        for name, (help_text, _) in _FROM_WORKERS.items()
    ]


def worker_infos(session: Session, lease_s: float) -> list[WorkerInfo]:
    newest = select(Worker).order_by(Worker.started_at.desc(), Worker.id).limit(MAX_SHOWN)
    active = select(Run.worker_id, Run.id).where(Run.state.in_(ACTIVE))
    run_ids = {worker_id: run_id for worker_id, run_id in session.execute(active) if worker_id}
    return [_info(row, run_ids.get(row.id), lease_s) for row in session.scalars(newest)]


def _info(row: Worker, run_id: str | None, lease_s: float) -> WorkerInfo:
    state: WorkerState = "idle" if run_id is None else "busy"
    if row.stopped_at is not None:
        state = "stopped"
    elif utc_now() - row.seen_at > timedelta(seconds=lease_s):
        state = "lost"
    return WorkerInfo(**fields_of(row, WorkerInfo), state=state, run_id=run_id)
