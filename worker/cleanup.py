"""Removes what ended runs left behind on this host and in the store.

A run may end on another host than it started on, or on none, if it is cancelled while queued.
"""

import logging
import shutil
import threading

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from app.db import Database
from app.runs.models import Run
from app.runs.states import FINAL, RunState
from app.settings import Settings
from app.storage import WORK, Store

logger = logging.getLogger(__name__)

INTERVAL_S = 600.0


class Cleanup:
    """Removes files of ended runs, once or at intervals."""

    def __init__(self, settings: Settings, db: Database, store: Store) -> None:
        self._settings, self._db, self._store = settings, db, store

    def run(self, stop: threading.Event) -> None:
        """Clean up at intervals until `stop` is set; what failed is tried again at the next."""
        while True:
            try:
                self.clean_up()
            except (SQLAlchemyError, OSError) as error:
                logger.warning("cleanup postponed: %s", error)
            if stop.wait(INTERVAL_S):
                return

    def clean_up(self) -> None:
        """Clean up once."""
        folder = self._settings.work_dir
        here = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        copied = set(self._store.names(WORK))
        with self._db.read() as session:
            rows = session.execute(
                select(Run.id, Run.state, Run.tail_attempt).where(Run.id.in_(here | copied))
            )
            known = {run_id: (RunState(state), tail) for run_id, state, tail in rows}
        ended = {run_id for run_id, (state, _) in known.items() if state in FINAL}
        for run_id in copied & ended | copied - known.keys():
            self._store.delete_prefix(f"{WORK}/{run_id}")
        for run_id in here:
            state, tail_attempt = known.get(run_id, (None, 0))
            if state is RunState.FAILED:
                continue  # kept for debugging until the run is deleted
            # Where hosts share no data folder, deleting a run leaves its folders on other hosts.
            # Where they do, an unknown folder may belong to another database.
            deleted = state is None and not self._store.is_local
            if deleted or state in FINAL:
                shutil.rmtree(folder / run_id, ignore_errors=True)
            for attempt in range(1, tail_attempt):
                # The run has resumed elsewhere without these files.
                shutil.rmtree(folder / run_id / f"attempt-{attempt}", ignore_errors=True)
