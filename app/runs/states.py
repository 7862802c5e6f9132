"""The states of a run and the transitions between them; knows no table and no session."""

from enum import StrEnum


class RunState(StrEnum):
    WAITING = "waiting"
    """Some input run has not succeeded yet."""
    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"
    """An input run failed, was cancelled or was skipped."""


FINAL = frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED, RunState.SKIPPED})
ACTIVE = frozenset({RunState.RUNNING, RunState.CANCELLING})
"""A worker is executing the run."""
UNSUCCESSFUL = frozenset({RunState.FAILED, RunState.CANCELLED, RunState.SKIPPED})
"""Runs that depend on such a run can never start."""

ALLOWED: dict[RunState, frozenset[RunState]] = {
    RunState.WAITING: frozenset({RunState.QUEUED, RunState.SKIPPED, RunState.CANCELLED}),
    RunState.QUEUED: frozenset({RunState.RUNNING, RunState.CANCELLED}),
    RunState.RUNNING: frozenset(
        {
            RunState.SUCCEEDED,
            RunState.FAILED,
            RunState.CANCELLING,
            RunState.QUEUED,  # recovery: resumes from the last checkpoint
        }
    ),
    # A run may finish or fail before it notices the request to stop.
    RunState.CANCELLING: frozenset({RunState.CANCELLED, RunState.SUCCEEDED, RunState.FAILED}),
    RunState.SUCCEEDED: frozenset(),
    RunState.FAILED: frozenset(),
    RunState.CANCELLED: frozenset(),
    RunState.SKIPPED: frozenset(),
}
