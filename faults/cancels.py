"""Cancel, against whatever the run is doing at that moment."""

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from sqlalchemy import func, select

from app.cli.client import Json, Refused
from app.runs.models import Artifact, Run
from app.runs.states import FINAL, RunState
from faults.figures import Figure, Row, percentile
from faults.installation import Installation, installation, teacher, wait_for
from faults.trial import Trial

WORKERS = 2
STOPPED_WITHIN_S = 35.0
ENDLESS = 20_000


def cancels(trial: Trial) -> Iterator[Row]:
    """Many at a time, each at its own moment."""
    times = trial.times(2, 72)
    with installation(trial.new_folder("cancels"), workers=WORKERS, patient=trial.long) as stand:
        corpus = stand.upload_text()
        races = [
            Race(stand, corpus, moment, trial.random("cancels", moment, number))
            for number in range(times)
            for moment in MOMENTS
        ]
        done = 0
        # One more than workers, so that a run is always queued.
        with ThreadPoolExecutor(WORKERS + 1) as racers:
            for _ in racers.map(Race.run, races):
                done += 1
                trial.say(f"cancels: {done} of {len(races)}")
        time.sleep(3 * stand.settings.heartbeat_s)
        for race in races:
            race.look_again()
    stopped_s = [seconds for race in races for seconds in race.stopped_s]
    dishonest = [each for race in races for each in race.dishonest]
    cancelled = sum(race.cancelled for race in races)
    yield Row(
        f"cancel while {', '.join(MOMENTS)}",
        len(stopped_s),
        "`cancelled`, or `succeeded` if the result was there first",
        [
            Figure("resurrected", sum(race.resurrected for race in races)),
            Figure("dishonest_ends", len(dishonest), reason="; ".join(dishonest)),
            Figure("leftovers", sum(race.leftovers for race in races)),
            Figure("stopped_p99_s", percentile(stopped_s, 0.99), STOPPED_WITHIN_S),
        ],
        {
            "cancelled": cancelled,
            "succeeded first": len(stopped_s) - cancelled - len(dishonest),
            "stopped_median_s": round(percentile(stopped_s, 0.5), 1),
        },
    )


@dataclass
class Race:
    """One cancel, or two where something waits for what is cancelled."""

    stand: Installation
    corpus: Json
    moment: str
    draw: random.Random
    stopped_s: list[float] = field(default_factory=list)
    dishonest: list[str] = field(default_factory=list)
    cancelled: int = 0
    resurrected: int = 0
    leftovers: int = 0
    _ended: list[Run] = field(default_factory=list)

    def run(self) -> None:
        """Submit, wait for the moment, cancel, wait for the end."""
        for run_id in MOMENTS[self.moment](self):
            self._cancel(run_id)

    def submit(self, updates: int = ENDLESS, checkpoint_every_s: int = 3600) -> str:
        """A run that goes on until it is stopped, unless configured otherwise."""
        reporting = {"log_every_steps": 1, "checkpoint_every_s": checkpoint_every_s}
        config = teacher(self.corpus, updates, reporting=reporting)
        run_id: str = self.stand.client.submit_run(config)["id"]
        return run_id

    def sees(self, run_id: str, *phases: str) -> None:
        """Wait until the run is in one of these phases of its trainer, or has ended."""

        def there() -> bool:
            run = self.stand.run(run_id)
            return run.state in FINAL or run.phase in phases

        wait_for(there, 300, f"{phases} of {run_id}", every_s=0.02)

    def _cancel(self, run_id: str) -> None:
        refused = False
        start_s = time.monotonic()
        try:
            self.stand.client.cancel(run_id)
        except Refused:
            refused = True
        wait_for(lambda: self.stand.run(run_id).state in FINAL, 120, f"the end of {run_id}", 0.05)
        self.stopped_s.append(time.monotonic() - start_s)
        run = self.stand.run(run_id)
        self._ended.append(run)
        with self.stand.db.read() as session:
            query = select(func.count()).where(Artifact.run_id == run_id)
            files = session.scalar(query) or 0
        honest = (run.state == RunState.CANCELLED and not files and not refused) or (
            run.state == RunState.SUCCEEDED and files > 0
        )
        self.cancelled += run.state == RunState.CANCELLED
        if not honest:
            self.dishonest.append(f"{self.moment}: {run.state} with {files} files, {refused=}")

    def look_again(self) -> None:
        """Count what has happened to the runs since they ended, and what they left."""
        for before in self._ended:
            now = self.stand.run(before.id)
            trainers = [t for worker in self.stand.workers for t in worker.trainers(before.id)]
            same = (now.state, now.attempt, now.version) == (
                before.state,
                before.attempt,
                before.version,
            )
            self.resurrected += not same or bool(trainers)
            self.leftovers += (self.stand.data_dir / "work" / before.id).exists()


def _waiting(race: Race) -> list[str]:
    teacher_id = race.submit()
    prune = {"kind": "prune", "teacher": {"source": "run", "run_id": teacher_id}}
    waiting_id = race.stand.client.submit_run(prune)["id"]
    time.sleep(race.draw.uniform(0, 0.5))
    return [waiting_id, teacher_id]


def _queued(race: Race) -> list[str]:
    run_id = race.submit()
    time.sleep(race.draw.uniform(0, 0.1))
    return [run_id]


def _starting(race: Race) -> list[str]:
    run_id = race.submit()
    race.sees(run_id, "starting")
    time.sleep(race.draw.uniform(0, 0.5))
    return [run_id]


def _running(race: Race) -> list[str]:
    run_id = race.submit()
    race.sees(run_id, "training")
    time.sleep(race.draw.uniform(0, 1))
    return [run_id]


def _checkpointing(race: Race) -> list[str]:
    """Saving after each step takes longer than these small steps do."""
    run_id = race.submit(checkpoint_every_s=0)
    race.sees(run_id, "training")
    time.sleep(race.draw.uniform(0, 1))
    return [run_id]


def _finishing(race: Race) -> list[str]:
    run_id = race.submit(updates=race.draw.randrange(1, 20))
    with suppress(TimeoutError):
        race.sees(run_id, "evaluating", "saving")
    time.sleep(race.draw.uniform(0, 0.8))
    return [run_id]


MOMENTS: dict[str, Callable[[Race], list[str]]] = {
    "waiting": _waiting,
    "queued": _queued,
    "starting": _starting,
    "running": _running,
    "checkpointing": _checkpointing,
    "finishing": _finishing,
}
"""Each submits, waits for its moment, and returns what to cancel, in this order."""
