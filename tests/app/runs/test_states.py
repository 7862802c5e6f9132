"""The table of states, and the one UPDATE that moves a run along it, on each database."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.db import Database, new_id
from app.errors import Conflict
from app.runs import lifecycle
from app.runs.models import Artifact, PublishedFile, Run, RunInput
from app.runs.states import ALLOWED, FINAL, RunState
from app.runs.transitions import Overtaken, StaleAttempt, transition
from kdcore.config import TeacherConfig


def add_run(
    database: Database,
    state: RunState = RunState.QUEUED,
    inputs: dict[str, str] | None = None,
    **columns: object,
) -> str:
    run_id = new_id()
    with database.write() as session:
        run = Run(
            id=run_id,
            name="test",
            kind="teacher",
            state=state,
            config=TeacherConfig().model_dump(mode="json"),
            **columns,
        )
        run.inputs = [RunInput(role=r, input_run_id=i) for r, i in (inputs or {}).items()]
        session.add(run)
    return run_id


def row(database: Database, run_id: str) -> Run:
    with database.read() as session:
        return session.get_one(Run, run_id)


def claim(database: Database, run_id: str) -> int:
    with database.write() as session:
        run = lifecycle.claim(session, run_id, "w00000000001")
        assert run is not None
        return run.attempt


def test_nothing_leaves_a_final_state() -> None:
    assert set(ALLOWED) == set(RunState)
    assert {state for state, following in ALLOWED.items() if not following} == FINAL


@pytest.mark.parametrize("from_", RunState)
@pytest.mark.parametrize("to", RunState)
def test_only_the_tables_transitions_are_possible(
    sqlite_url: str, from_: RunState, to: RunState
) -> None:
    database = Database(sqlite_url)
    run_id = add_run(database, from_)
    if to in ALLOWED[from_]:
        with database.write() as session:
            assert transition(session, run_id, from_=from_, to=to, fence=0).state == to
    else:
        with pytest.raises(ValueError, match="cannot go"), database.write() as session:
            transition(session, run_id, from_=from_, to=to, fence=0)
    database.close()


@pytest.mark.parametrize("wrong", ["state", "attempt"])
def test_a_transition_needs_state_and_attempt_as_they_are(database: Database, wrong: str) -> None:
    run_id = add_run(database, RunState.RUNNING, attempt=2)
    from_ = RunState.CANCELLING if wrong == "state" else RunState.RUNNING
    fence = 1 if wrong == "attempt" else 2
    with pytest.raises(Overtaken), database.write() as session:
        transition(session, run_id, from_=from_, to=RunState.SUCCEEDED, fence=fence)
    assert row(database, run_id).state == RunState.RUNNING


def test_of_many_that_claim_at_once_one_gets_the_run(database: Database) -> None:
    run_id = add_run(database)
    start = threading.Barrier(8)

    def try_it(number: int) -> bool:
        start.wait()
        with database.write() as session:
            return lifecycle.claim(session, run_id, f"w{number:011d}") is not None

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(try_it, range(8))) == 1
    assert row(database, run_id).attempt == 1


def test_a_spare_job_finds_the_run_that_has_waited_longest(database: Database) -> None:
    first, second = add_run(database), add_run(database)
    with database.write() as session:
        for run_id in (first, second):
            session.get_one(Run, run_id).queued_at = session.get_one(Run, run_id).created_at
    claim(database, second)
    with database.write() as session:
        run = lifecycle.claim(session, second, "w00000000002")
        assert run is not None
        assert run.id == first
        assert lifecycle.claim(session, second, "w00000000002") is None


@pytest.mark.parametrize("order", ["teacher first", "student first", "at once"])
def test_a_run_is_queued_when_its_last_input_succeeds(database: Database, order: str) -> None:
    teacher, student = add_run(database), add_run(database)
    waiting = add_run(database, RunState.WAITING, inputs={"teacher": teacher, "student": student})
    attempts = {run_id: claim(database, run_id) for run_id in (teacher, student)}

    def succeed(run_id: str) -> list[str]:
        with database.write() as session:
            return lifecycle.succeed(
                session, run_id, attempts[run_id], result={}, shape=None, files=[]
            )

    if order == "at once":
        with ThreadPoolExecutor(2) as pool:
            queued = [each for ids in pool.map(succeed, (teacher, student)) for each in ids]
    else:
        both = (teacher, student) if order == "teacher first" else (student, teacher)
        queued = succeed(both[0])
        assert queued == []
        assert row(database, waiting).state == RunState.WAITING
        queued += succeed(both[1])
    assert queued == [waiting]
    assert row(database, waiting).state == RunState.QUEUED
    assert row(database, waiting).queued_at is not None


@pytest.mark.parametrize("end", ["fails", "is cancelled"])
def test_dependants_of_a_failed_run_are_skipped_all_the_way_down(
    database: Database, end: str
) -> None:
    teacher = add_run(database)
    pruned = add_run(database, RunState.WAITING, inputs={"teacher": teacher})
    distilled = add_run(database, RunState.WAITING, inputs={"teacher": teacher, "student": pruned})
    with database.write() as session:
        if end == "fails":
            run = lifecycle.claim(session, teacher, "w00000000001")
            assert run is not None
            lifecycle.fail(session, teacher, run.attempt, "nan", "the loss is NaN")
        else:
            lifecycle.cancel(session, teacher)
    assert row(database, pruned).state == RunState.SKIPPED
    assert row(database, distilled).state == RunState.SKIPPED
    assert teacher in (row(database, pruned).error_message or "")


def test_a_stale_attempt_can_write_nothing(database: Database) -> None:
    run_id = add_run(database)
    old = claim(database, run_id)
    with database.write() as session:
        lifecycle.recover(session, run_id, old, 0, max_attempts=3)
    new = claim(database, run_id)
    assert new == old + 1
    file = PublishedFile("config.json", 1, "0" * 64, "key")
    attempts = (
        lambda s: lifecycle.beat(s, run_id, old),
        lambda s: lifecycle.check_lease(s, run_id, old),
        lambda s: lifecycle.fail(s, run_id, old, "internal", "late"),
        lambda s: lifecycle.release(s, run_id, old),
        lambda s: lifecycle.attempt_lost(s, run_id, old, 3, "late"),
        lambda s: lifecycle.succeed(s, run_id, old, result={}, shape=None, files=[file]),
    )
    for write in attempts:
        with pytest.raises(StaleAttempt), database.write() as session:
            write(session)
    assert row(database, run_id).state == RunState.RUNNING
    with database.read() as session:
        assert session.get(Artifact, (run_id, "config.json")) is None


def test_a_late_heartbeat_prevents_the_recovery(database: Database) -> None:
    run_id = add_run(database)
    attempt = claim(database, run_id)
    with database.write() as session:
        lifecycle.beat(session, run_id, attempt)
    with pytest.raises(Overtaken), database.write() as session:
        lifecycle.recover(session, run_id, attempt, 0, max_attempts=3)
    assert row(database, run_id).state == RunState.RUNNING


def test_three_attempts_without_a_newer_checkpoint_are_enough(database: Database) -> None:
    run_id = add_run(database)
    for lost in (1, 2, 3):
        attempt = claim(database, run_id)
        with database.write() as session:
            state = lifecycle.recover(session, run_id, attempt, 0, max_attempts=3)
        assert state is (RunState.QUEUED if lost < 3 else RunState.FAILED)
    assert row(database, run_id).error_code == "worker_lost"


def test_a_newer_checkpoint_resets_the_count(database: Database) -> None:
    run_id = add_run(database)
    for step in (10, 20, 30, 40, 50):
        attempt = claim(database, run_id)
        with database.write() as session:
            session.get_one(Run, run_id).checkpoint_step = step
        with database.write() as session:
            assert lifecycle.attempt_lost(session, run_id, attempt, 3, "x") is RunState.QUEUED
    assert row(database, run_id).attempts_without_progress == 0


def test_a_cancelled_run_that_is_lost_or_stopped_is_cancelled(database: Database) -> None:
    for how in ("recover", "stopped", "lose"):
        run_id = add_run(database)
        attempt = claim(database, run_id)
        with database.write() as session:
            assert lifecycle.cancel(session, run_id).state == RunState.CANCELLING
            assert lifecycle.cancel(session, run_id).state == RunState.CANCELLING
            assert lifecycle.beat(session, run_id, attempt) is RunState.CANCELLING
        with database.write() as session:
            match how:
                case "recover":
                    state = lifecycle.recover(session, run_id, attempt, 1, 1)
                case "stopped":
                    state = lifecycle.release(session, run_id, attempt)
                case _:
                    state = lifecycle.attempt_lost(session, run_id, attempt, 1, "x")
        assert state is RunState.CANCELLED


def test_a_run_that_finishes_before_it_hears_the_cancel_has_succeeded(database: Database) -> None:
    run_id = add_run(database)
    attempt = claim(database, run_id)
    with database.write() as session:
        lifecycle.cancel(session, run_id)
    with database.write() as session:
        lifecycle.succeed(session, run_id, attempt, result={"steps": 1}, shape=None, files=[])
    assert row(database, run_id).state == RunState.SUCCEEDED


def test_a_race_of_cancel_and_success_has_one_honest_end(database: Database) -> None:
    for _ in range(10):
        run_id = add_run(database)
        attempt = claim(database, run_id)
        start = threading.Barrier(2)

        def cancel(run_id: str = run_id, start: threading.Barrier = start) -> None:
            start.wait()
            try:
                with database.write() as session:
                    lifecycle.cancel(session, run_id)
            except Conflict:
                pass

        def succeed(
            run_id: str = run_id, attempt: int = attempt, start: threading.Barrier = start
        ) -> None:
            start.wait()
            with database.write() as session:
                lifecycle.succeed(session, run_id, attempt, result={}, shape=None, files=[])

        with ThreadPoolExecutor(2) as pool:
            for done in [pool.submit(cancel), pool.submit(succeed)]:
                done.result()
        assert row(database, run_id).state == RunState.SUCCEEDED
