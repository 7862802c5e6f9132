"""What a deployment does: SIGTERM to workers and to the API; and a trainer that hangs."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from app.cli.client import Json
from app.runs.states import FINAL
from faults.figures import Figure, Row, percentile
from faults.installation import Installation, Kind, installation, teacher
from faults.kills import TOGETHER, Damage, owner_of, wait_resumed
from faults.trial import Trial

UPDATES = 150
LEFT_WITHIN_S = 35.0
"""What a trainer is given to save its checkpoint, and some seconds to sign out."""
LEAST_LIMIT_S = 4.0
"""Of the watchdog; by default it is half an hour."""


@dataclass
class Deployments:
    """What happened to workers that were asked to stop, and to their runs."""

    stand: Installation
    config: Json
    damage: Damage = field(default_factory=Damage)
    times: int = 0
    left_s: list[float] = field(default_factory=list)
    in_disorder: int = 0
    updates_lost: int = 0
    why: list[str] = field(default_factory=list)
    """Of each run that lost steps: which, by what attempts, and what its log says."""

    def batch(self, wanted: int, pauses_s: Iterator[float]) -> None:
        """Some runs at a time, whose workers are replaced until they have ended."""
        stand = self.stand
        ids = [stand.client.submit_run(self.config)["id"] for _ in range(TOGETHER)]
        while self.times < wanted and not all(stand.run(i).state in FINAL for i in ids):
            time.sleep(next(pauses_s))
            run_id = next((i for i in ids if owner_of(stand, i)), None)
            if run_id is not None:
                self.replace(run_id)
        for run in stand.wait_final(ids):
            self.damage.compare(stand, run.id, stand.undisturbed)
            self.updates_lost += stand.updates_lost(run.id)
            if lost := stand.made_again(run.id):
                self.why.append(f"{lost}: {stand.lost_attempts(run.id)}")

    def replace(self, run_id: str) -> None:
        """Tell the run's worker to leave, start another one, wait until the run goes on."""
        stand = self.stand
        worker, attempt = owner_of(stand, run_id), stand.run(run_id).attempt
        if worker is None:  # the run was quicker
            return
        status, left_s = worker.leave()
        worker.start()
        self.times += 1
        self.left_s.append(left_s)
        self.in_disorder += status != 0
        self.damage.resumed_s.append(wait_resumed(stand, run_id, attempt))


def deploy(trial: Trial) -> Iterator[Row]:
    """Workers, and the API, are stopped at random moments and replaced."""
    kinds: tuple[Kind, ...] = ("sqlite", "postgres") if trial.long else ("sqlite",)
    for kind in kinds:
        draw, wanted = trial.random("deploy", kind), trial.times(2, 20)
        pauses_s = iter(lambda draw=draw: draw.uniform(0, 1.5), None)
        with installation(trial.new_folder("deploy"), kind, workers=TOGETHER) as stand:
            config = teacher(stand.upload_text(), UPDATES)
            stand.undisturbed = stand.client.submit_run(config)["id"]
            stand.wait_final([stand.undisturbed])
            seen = Deployments(stand, config)
            while seen.times < wanted:
                trial.say(f"deployments on {kind}: {seen.times} of {wanted}")
                seen.batch(wanted, pauses_s)
                seen.in_disorder += stand.api.leave()[0] != 0
                stand.api.start()
                stand.wait_ready()
        yield Row(
            f"SIGTERM to the worker (deploy), {kind}",
            seen.times,
            "`queued` for a moment; another worker goes on where it stopped",
            [
                *seen.damage.figures(),
                Figure("updates_lost", seen.updates_lost),
                Figure("left_in_disorder", seen.in_disorder),
                Figure("left_s", percentile(seen.left_s, 1.0), LEFT_WITHIN_S),
            ],
            {
                "runs": seen.damage.runs,
                "resumed_max_s": round(percentile(seen.damage.resumed_s, 1.0), 1),
                **({"made_again": " | ".join(seen.why)} if seen.why else {}),
            },
        )


def hung(trial: Trial) -> Iterator[Row]:
    """The trainer alone is frozen: its worker sends heartbeats, so only the watchdog can notice."""
    damage = Damage()
    wanted, found = trial.times(1, 3), 0
    draw = trial.random("hung")
    with installation(trial.new_folder("hung")) as stand:
        config = teacher(stand.upload_text(), UPDATES)
        start_s = time.monotonic()
        stand.undisturbed = stand.client.submit_run(config)["id"]
        stand.wait_points(stand.undisturbed)
        # A start is a silence too, and takes long on a busy machine.
        limit_s = max(LEAST_LIMIT_S, 2 * (time.monotonic() - start_s))
        stand.wait_final([stand.undisturbed])
        stand.workers.pop().leave()
        worker = stand.start_worker(HALFLAYER_HUNG_AFTER_S=str(limit_s))
        while found < wanted:
            trial.say(f"hung trainers: {found} of {wanted}")
            run_id = stand.client.submit_run(config)["id"]
            stand.wait_points(run_id)
            time.sleep(draw.uniform(0, 0.5))
            attempt = stand.run(run_id).attempt
            for trainer in worker.trainers(run_id):
                trainer.suspend()
            damage.resumed_s.append(wait_resumed(stand, run_id, attempt, 120 + 10 * limit_s))
            [run] = stand.wait_final([run_id])
            found += run.attempt > attempt  # or it was quicker than we
            damage.compare(stand, run_id, stand.undisturbed)
    yield Row(
        "the trainer hangs (SIGSTOP)",
        found,
        "the log says that the trainer was silent; then the run goes on",
        damage.figures(),
        {
            "limit_s": round(limit_s),
            "resumed_max_s": round(percentile(damage.resumed_s, 1.0), 1),
        },
    )
