"""What the workers do, for people and Prometheus to see; no decision rests on it."""

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
from app.workers.heartbeat_age import HeartbeatAges
from app.workers.models import Worker
from app.workers.schemas import WorkerInfo, WorkerState

MAX_SHOWN = 500
_FROM_WORKERS = {
    "halflayer_worker_beat_age_seconds": (
        "Time since this API last saw the worker's beat rise.",
        "beat_age_s",
    ),
    "halflayer_worker_cpu_cores": ("Processor cores in use by worker and trainer.", "cpu_cores"),
    "halflayer_worker_memory_bytes": ("Memory of worker and trainer.", "memory_bytes"),
    "halflayer_device_busy_ratio": ("Share of the time that the GPU computed.", "device_busy"),
    "halflayer_device_memory_used_bytes": (
        "Memory of the GPU in use, by anybody.",
        "device_memory_used_bytes",
    ),
    "halflayer_device_memory_bytes": ("Memory that the device has.", "device_memory_bytes"),
}
"""Figures of each worker: name, words, and the key in what is known of it."""


def count_by_state(session: Session, lease_s: float) -> dict[tuple[str, ...], float]:
    """How many workers are in each state."""
    counted = Counter(info.state for info in worker_infos(session, lease_s))
    return {(state,): float(counted[state]) for state in get_args(WorkerState)}


def worker_metrics(session: Session, beats: HeartbeatAges) -> list[Metric]:
    """The age of each worker's last beat, and what it said that it uses."""
    rows = list(session.scalars(select(Worker).where(Worker.stopped_at.is_(None))))
    ages_s = beats.ages_s({row.id: row.beat for row in rows})
    values: dict[str, dict[tuple[str, ...], float]] = {name: {} for name in _FROM_WORKERS}
    for row in rows:
        labels = (row.id, row.hostname, row.device)
        found = (row.usage or {}) | {
            "beat_age_s": ages_s[row.id],
            "device_memory_bytes": row.memory_bytes,
        }
        for name, (_, key) in _FROM_WORKERS.items():
            value = found.get(key)
            if isinstance(value, int | float):
                values[name][labels] = float(value)
    return [
        labelled_gauge(name, words, ("worker", "host", "device"), values[name])
        for name, (words, _) in _FROM_WORKERS.items()
    ]


def worker_infos(session: Session, lease_s: float) -> list[WorkerInfo]:
    newest = select(Worker).order_by(Worker.started_at.desc(), Worker.id).limit(MAX_SHOWN)
    active = select(Run.worker_id, Run.id).where(Run.state.in_(ACTIVE))
    in_hand = {worker_id: run_id for worker_id, run_id in session.execute(active) if worker_id}
    return [_info(row, in_hand.get(row.id), lease_s) for row in session.scalars(newest)]


def _info(row: Worker, run_id: str | None, lease_s: float) -> WorkerInfo:
    state: WorkerState = "idle" if run_id is None else "busy"
    if row.stopped_at is not None:
        state = "stopped"
    elif utc_now() - row.seen_at > timedelta(seconds=lease_s):
        state = "lost"
    return WorkerInfo(
        id=row.id,
        hostname=row.hostname,
        device=row.device,
        device_name=row.device_name,
        memory_bytes=row.memory_bytes,
        version=row.version,
        started_at=row.started_at,
        seen_at=row.seen_at,
        state=state,
        run_id=run_id,
        note=row.note,
    )
