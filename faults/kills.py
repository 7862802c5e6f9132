"""SIGKILL at random moments: of trainers, of workers, of both."""

import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

from app.cli.client import Json
from app.runs.models import MetricPoint
from app.runs.states import FINAL, RunState
from faults.figures import Figure, Row, percentile
from faults.installation import Installation, Kind, Process, installation, teacher, wait_for
from faults.trial import Trial

UPDATES = 250
TOGETHER = 2
RESUMED_WITHIN_S = 90.0
_OWN_TIME = ("tokens_per_s",)
"""Curves whose values no two executions share."""


@dataclass
class Damage:
    """What was found of runs that were disturbed, beside one that was not."""

    runs: int = 0
    lost_runs: int = 0
    lost_points: int = 0
    doubled_points: int = 0
    other_points: int = 0
    other_weights: int = 0
    resumed_s: list[float] = field(default_factory=list)

    def figures(self) -> list[Figure]:
        return [
            Figure("lost_runs", self.lost_runs),
            Figure("lost_points", self.lost_points),
            Figure("doubled_points", self.doubled_points),
            Figure("other_points", self.other_points),
            Figure("other_weights", self.other_weights),
        ]

    def compare(self, stand: Installation, run_id: str, undisturbed_id: str) -> None:
        """Count what differs between a run that has ended and an undisturbed one."""
        self.runs += 1
        if stand.run(run_id).state != RunState.SUCCEEDED:
            self.lost_runs += 1
            return
        undisturbed = stand.run(undisturbed_id)
        assert undisturbed.state == RunState.SUCCEEDED, undisturbed.error_message
        expected, found = (_curves(stand.points(each)) for each in (undisturbed_id, run_id))
        self.lost_points += len(expected.keys() - found.keys())
        self.other_points += sum(
            found[at] != expected[at]
            for at in expected.keys() & found.keys()
            if at[0] not in _OWN_TIME
        )
        rows = Counter((p.name, p.step, p.attempt) for p in stand.points(run_id))
        self.doubled_points += sum(count - 1 for count in rows.values())
        if stand.weights_sha256(run_id) != stand.weights_sha256(undisturbed_id):
            self.other_weights += 1


def _curves(points: list[MetricPoint]) -> dict[tuple[str, int], float | None]:
    """The value of every curve at every step; a later attempt's wins."""
    newest: dict[tuple[str, int], MetricPoint] = {}
    for point in points:
        newest[point.name, point.step] = point
    return {at: point.value for at, point in newest.items()}


def kill_trainer(process: Process, run_id: str) -> bool:
    """SIGKILL to the trainer of this run; whether there was one."""
    found = process.trainers(run_id)
    for trainer in found:
        with suppress(psutil.Error):
            trainer.kill()
    return bool(found)


def owner_of(stand: Installation, run_id: str) -> Process | None:
    """The worker whose trainer works on this run."""
    return next((worker for worker in stand.workers if worker.trainers(run_id)), None)


def kill(stand: Installation, run_id: str, victim: str) -> bool:
    """Kill the run's trainer, its worker, or both; a killed worker is restarted."""
    worker = owner_of(stand, run_id)
    if worker is None:
        return False
    if victim == "both":
        worker.signal(signal.SIGSTOP)  # so that it does not see its trainer die
    if victim in ("trainer", "both"):
        kill_trainer(worker, run_id)
    if victim in ("worker", "both"):
        worker.restart()
    return True


def wait_resumed(stand: Installation, run_id: str, attempt: int, timeout_s: float = 180) -> float:
    """Seconds until a later attempt of the run has a point, or has ended."""
    start_s = time.monotonic()

    def resumed() -> bool:
        run = stand.run(run_id)
        return run.state in FINAL or stand.losses(run_id, after_attempt=attempt) > 0

    wait_for(resumed, timeout_s, f"{run_id} to go on")
    return time.monotonic() - start_s


def _batch(
    stand: Installation, corpus: Json, draw: random.Random, faults: int, damage: Damage
) -> int:
    """A few runs at a time, with faults until they have ended; returns how many."""
    config = teacher(corpus, UPDATES)
    ids = [stand.client.submit_run(config)["id"] for _ in range(TOGETHER)]
    done = 0
    while done < faults:
        running = [i for i in ids if stand.run(i).state == RunState.RUNNING]
        if not running:
            if all(stand.run(i).state in FINAL for i in ids):
                break
            time.sleep(0.1)
            continue
        run_id = draw.choice(running)
        time.sleep(draw.uniform(0.0, 1.5))
        attempt = stand.run(run_id).attempt
        if kill(stand, run_id, draw.choice(("trainer", "worker", "both"))):
            done += 1
            damage.resumed_s.append(wait_resumed(stand, run_id, attempt))
    stand.wait_final(ids)
    for run_id in ids:
        damage.compare(stand, run_id, stand.undisturbed)
    return done


def kills(trial: Trial) -> Iterator[Row]:
    """Many kills, with a short lease."""
    kinds: tuple[Kind, ...] = ("sqlite", "postgres") if trial.long else ("postgres",)
    for kind in kinds:
        draw = trial.random("kills", kind)
        wanted, done = trial.times(3, 100), 0
        damage = Damage()
        with installation(trial.new_folder("kills"), kind, workers=TOGETHER) as stand:
            corpus = stand.upload_text()
            stand.undisturbed = stand.client.submit_run(teacher(corpus, UPDATES))["id"]
            stand.wait_final([stand.undisturbed])
            while done < wanted:
                trial.say(f"kills on {kind}: {done} of {wanted}")
                done += _batch(stand, corpus, draw, min(12, wanted - done), damage)
        yield Row(
            f"SIGKILL of trainer, worker or both at a random moment, {kind}, lease 4 s",
            done,
            "`queued`, then it goes on",
            [
                *damage.figures(),
                Figure("resumed_impatient_p99_s", percentile(damage.resumed_s, 0.99), 60),
            ],
            {"runs": damage.runs, "resumed_median_s": round(percentile(damage.resumed_s, 0.5), 1)},
        )


def default_lease(trial: Trial) -> Iterator[Row]:
    """Workers killed with all times at their defaults: what a person waits for."""
    resumed_s: list[float] = []
    damage = Damage()
    workers = trial.times(1, 3)
    with installation(trial.new_folder("lease"), workers=workers, patient=True) as stand:
        corpus = stand.upload_text()
        config = teacher(corpus, UPDATES * 40)
        ids = [stand.client.submit_run(config)["id"] for _ in range(workers)]
        for round_ in range(trial.times(1, 2)):
            trial.say(f"default lease: round {round_ + 1}")
            attempts = {}
            for run_id in ids:
                stand.wait_points(run_id)
                attempts[run_id] = stand.run(run_id).attempt
            time.sleep(trial.random("lease", round_).uniform(0, 10 if trial.long else 1))
            killed_s = time.monotonic()
            for worker in stand.workers:
                worker.restart()
            for run_id in ids:
                wait_resumed(stand, run_id, attempts[run_id])
                resumed_s.append(time.monotonic() - killed_s)
        damage.lost_runs = sum(stand.run(i).state in FINAL for i in ids)
        for run_id in ids:
            stand.client.cancel(run_id)
    yield Row(
        "SIGKILL of the worker, lease and heartbeat at their defaults (60 s, 10 s)",
        len(resumed_s),
        "`running` for a minute, `queued`, then it goes on",
        [
            Figure("lost_runs", damage.lost_runs),
            Figure("resumed_p99_s", percentile(resumed_s, 0.99), RESUMED_WITHIN_S),
        ],
        {"resumed_median_s": round(percentile(resumed_s, 0.5), 1)},
    )
