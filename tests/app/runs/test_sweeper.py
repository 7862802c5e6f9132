"""The sweeper on a clock of the test's own: orphans, lost jobs, false alarms."""

import pytest

from app.db import Database, utc_now
from app.queue import JobQueue
from app.runs import lifecycle
from app.runs.states import RunState
from app.runs.sweeper import Sweeper
from app.settings import Settings
from tests.app.runs.test_states import add_run, claim, row


class Clock:
    """Time as the test says."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def job_queue(settings: Settings) -> JobQueue:
    return JobQueue(settings)


@pytest.fixture
def sweeper(database: Database, job_queue: JobQueue, settings: Settings, clock: Clock) -> Sweeper:
    return Sweeper(database, job_queue, settings, clock)


def watch(sweeper: Sweeper, clock: Clock, seconds: float) -> None:
    for _ in range(round(seconds / 5)):
        clock.now_s += 5
        sweeper.sweep()


def test_an_expired_lease_requeues_the_run(
    sweeper: Sweeper, clock: Clock, database: Database, job_queue: JobQueue
) -> None:
    run_id = add_run(database)
    claim(database, run_id)
    watch(sweeper, clock, 60)
    assert row(database, run_id).state == RunState.RUNNING
    watch(sweeper, clock, 10)
    assert row(database, run_id).state == RunState.QUEUED
    assert job_queue.length() == 1


def test_a_run_with_heartbeats_is_not_requeued(
    sweeper: Sweeper, clock: Clock, database: Database
) -> None:
    run_id = add_run(database)
    attempt = claim(database, run_id)
    for _ in range(6):
        watch(sweeper, clock, 50)
        with database.write() as session:
            lifecycle.beat(session, run_id, attempt)
    assert row(database, run_id).state == RunState.RUNNING


def test_time_without_sweeps_does_not_count(
    sweeper: Sweeper, clock: Clock, database: Database
) -> None:
    """The database was away, or this process was frozen, for an hour."""
    run_id = add_run(database)
    claim(database, run_id)
    watch(sweeper, clock, 30)
    clock.now_s += 3600
    sweeper.sweep()
    assert row(database, run_id).state == RunState.RUNNING


def test_a_queued_run_is_sent_again_and_the_queue_never_floods(
    sweeper: Sweeper, clock: Clock, database: Database, job_queue: JobQueue
) -> None:
    for _ in range(3):
        add_run(database, queued_at=utc_now())
    watch(sweeper, clock, 15)
    assert job_queue.length() == 0
    watch(sweeper, clock, 5)
    assert job_queue.length() == 3
    watch(sweeper, clock, 600)
    assert job_queue.length() == 3


def test_a_run_whose_inputs_ended_unseen_is_settled(
    sweeper: Sweeper, database: Database, job_queue: JobQueue
) -> None:
    done = add_run(database, RunState.SUCCEEDED)
    failed = add_run(database, RunState.FAILED)
    ready = add_run(database, RunState.WAITING, inputs={"teacher": done})
    hopeless = add_run(database, RunState.WAITING, inputs={"teacher": failed})
    sweeper.sweep()
    assert row(database, ready).state == RunState.QUEUED
    assert row(database, hopeless).state == RunState.SKIPPED
    assert job_queue.length() == 1


def test_without_a_broker_nothing_is_lost(
    clock: Clock, database: Database, settings: Settings
) -> None:
    away = settings.model_copy(update={"broker_url": "redis://127.0.0.1:1/0"})
    sweeper = Sweeper(database, JobQueue(away), away, clock)
    run_id = add_run(database)
    watch(sweeper, clock, 30)
    assert row(database, run_id).state == RunState.QUEUED
    back = JobQueue(settings)
    sweeper._job_queue = back
    watch(sweeper, clock, 5)
    assert back.length() == 1
