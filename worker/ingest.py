"""Stores what an attempt's trainer reports, once and in order; the trainer never waits for it."""

from app.db import Database
from app.runs import lifecycle
from app.runs.ingest import Position, append_events, position_of
from app.runs.models import Run
from app.runs.transitions import StaleAttempt
from kdcore.events import CheckpointSaved, Ending, RunResult
from worker.tail import Batch, Tail
from worker.workspace import Workspace


class Recorder:
    """Turns the trainer's files into rows, for one attempt."""

    def __init__(self, db: Database, run: Run, workspace: Workspace) -> None:
        self._db = db
        self._run = run
        self._workspace = workspace
        self._tail = Tail(workspace, position_of(run))
        self.ending: Ending | None = None
        """The last event with which the trainer announced its end."""
        self._reported_checkpoint: str | None = None
        self.checkpoint: str | None = None
        """The newest checkpoint of this attempt before which everything has become rows."""

    @property
    def has_result(self) -> bool:
        """Whether the trainer has reported its result."""
        return isinstance(self.ending, RunResult)

    def catch_up(self) -> None:
        """Store what earlier attempts reported and was not yet stored.

        Call it when the checkpoints are linked: all that led to them is in those files then.
        """
        while self._tail.position.attempt < self._run.attempt:
            position = self._tail.position
            self._tail.workspace = self._workspace.earlier(position.attempt)
            batch = self._tail.read(final=True)
            if batch.empty:
                batch = Batch([], position, Position(position.attempt + 1))
            self._store(batch)
        self._tail.workspace = self._workspace

    def record(self, *, final: bool = False) -> bool:
        """Store the next batch; whether there was one. `final`: the trainer has ended."""
        batch = self._tail.read(final=final)
        if batch.empty:
            return False
        # Before the rows are stored: a commit whose reply is lost must not lose the ending.
        for event in batch.events:
            if isinstance(event, Ending):
                self.ending = event
            elif isinstance(event, CheckpointSaved):
                self._reported_checkpoint = event.path
        self._store(batch)
        if self._tail.position == batch.after:
            self.checkpoint = self._reported_checkpoint
        return True

    def record_rest(self) -> None:
        """Store all that is left."""
        while self.record(final=True):
            continue

    def _store(self, batch: Batch) -> None:
        run = self._run
        try:
            with self._db.write() as session:
                append_events(
                    session,
                    run.id,
                    run.attempt,
                    batch.events,
                    before=batch.before,
                    after=batch.after,
                )
        except StaleAttempt:
            self._tail.position = self._position_in_database(batch)
        else:
            self._tail.position = batch.after

    def _position_in_database(self, batch: Batch) -> Position:
        """Where to continue after an earlier try that was committed although its reply was lost.

        That try may have stored less than this batch, since the trainer has written more.
        Raises StaleAttempt if the run is really lost.
        """
        run = self._run
        with self._db.read() as session:
            lifecycle.check_lease(session, run.id, run.attempt)
            position = position_of(session.get_one(Run, run.id))
        if position == batch.before:
            raise StaleAttempt(run.id, run.attempt)
        return position
