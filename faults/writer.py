"""One process that writes as API and workers do: `python -m faults.writer URL SEED ROUNDS`.

Prints one line of JSON: what it wrote, and how often it was turned away.
"""

import json
import random
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import TypeVar

from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app.db import Database
from app.runs import lifecycle
from app.runs.ingest import append_events, position_of
from app.runs.models import MetricPoint, Run
from app.runs.service import list_runs, submit
from kdcore.config import RUN_CONFIG
from kdcore.events import Metrics

POINTS_A_RUN = 20
REOPEN_EVERY = 10
"""Rounds: the first to open a database and the last to close it take locks of their own."""

T = TypeVar("T")
Begin = Callable[[], AbstractContextManager[Session]]


@dataclass
class Wrote:
    """What one writer did."""

    locked: int = 0
    points: int = 0
    claims: list[str] = field(default_factory=list)
    """`run/attempt` of each."""
    elapsed_s: list[float] = field(default_factory=list)
    """Of every transaction."""

    def do(self, begin: Begin, work: Callable[[Session], T]) -> T:
        """One transaction; repeated, and counted, if the database was locked."""
        while True:
            start_s = time.monotonic()
            try:
                with begin() as session:
                    done = work(session)
            except OperationalError as error:
                if "locked" not in str(error) and "busy" not in str(error):
                    raise
                self.locked += 1
            else:
                self.elapsed_s.append(time.monotonic() - start_s)
                return done


def carry_through(db: Database, wrote: Wrote, draw: random.Random) -> None:
    """Submit a run, take one, record its curve, end it."""
    config = RUN_CONFIG.validate_python({"kind": "teacher", "seed": draw.randrange(1000)})
    submitted = wrote.do(db.write, lambda s: submit(s, config).id)
    run = wrote.do(db.write, lambda s: lifecycle.claim(s, submitted, "w00000000001"))
    if run is None:
        return
    wrote.claims.append(f"{run.id}/{run.attempt}")
    position = position_of(run)
    for step in range(1, POINTS_A_RUN + 1):
        after = type(position)(run.attempt, position.events + 1, 0)
        event = Metrics(step=step, values={"loss": draw.random()})
        wrote.do(
            db.write,
            lambda s, event=event, before=position, after=after: append_events(
                s, run.id, run.attempt, [event], before=before, after=after
            ),
        )
        position = after
        wrote.points += 1
        if draw.random() < 0.2:
            wrote.do(db.write, lambda s: lifecycle.beat(s, run.id, run.attempt))
        if draw.random() < 0.2:
            wrote.do(db.read, list_runs)
    wrote.do(
        db.write,
        lambda s: lifecycle.succeed(s, run.id, run.attempt, result={}, shape=None, files=[]),
    )


def count_rows(db: Database) -> tuple[int, int]:
    """Runs and points."""
    with db.read() as session:
        runs = session.scalar(select(func.count()).select_from(Run))
        points = session.scalar(select(func.count()).select_from(MetricPoint))
    return runs or 0, points or 0


def main(url: str, seed: str, rounds: str) -> None:
    """Do it, and tell."""
    wrote, draw = Wrote(), random.Random(seed)
    for round_ in range(int(rounds)):
        if round_ % REOPEN_EVERY == 0:
            db = Database(url)
        carry_through(db, wrote, draw)
        if round_ % REOPEN_EVERY == REOPEN_EVERY - 1:
            db.close()
    db.close()
    print(json.dumps(asdict(wrote)))


if __name__ == "__main__":
    main(*sys.argv[1:])
