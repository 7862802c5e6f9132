"""SIGKILL to one of the processes that carry out a run together, or to who started them."""

import time
from collections.abc import Iterator
from contextlib import suppress

import psutil

from app.runs.states import FINAL, RunState
from faults.figures import Figure, Row, percentile
from faults.installation import Installation, installation, teacher, wait_for
from faults.kills import RESUMED_WITHIN_S, Damage, owner_of, wait_resumed
from faults.trial import Trial

UPDATES = 100
VICTIMS = ("0", "1", "launcher")
SURVIVE_S = 20.0
"""A process that lost another one must have exited by then; all time-outs are longer."""


def ranks(trial: Trial) -> Iterator[Row]:
    """Runs of two devices each, through the real worker and the real torchrun."""
    draw, wanted = trial.random("ranks"), trial.times(1, 10)
    done, survivors, damage = 0, 0, Damage()
    with installation(trial.new_folder("ranks"), device="cpu,cpu") as stand:
        config = teacher(stand.upload_text(), UPDATES)
        stand.undisturbed = stand.client.submit_run(config)["id"]
        stand.wait_final([stand.undisturbed])
        while done < wanted:
            trial.say(f"ranks: {done} of {wanted}")
            run_id = stand.client.submit_run(config)["id"]
            # Few kills per run, or its last steps would be all that is ever hit.
            for _ in range(min(6, wanted - done)):
                wait_for(lambda run_id=run_id: _working(stand, run_id), 180, f"work on {run_id}")
                time.sleep(draw.uniform(0.0, 2.0))
                attempt = stand.run(run_id).attempt
                killed = _kill(stand, run_id, draw.choice(VICTIMS))
                if killed is None:
                    continue
                done += 1
                damage.resumed_s.append(wait_resumed(stand, run_id, attempt))
                survivors += _survivors(killed)
            stand.wait_final([run_id])
            damage.compare(stand, run_id, stand.undisturbed)
    yield Row(
        "SIGKILL of one of a run's two processes, or of torchrun, at a random moment",
        done,
        "`queued`, then it goes on",
        [
            *damage.figures(),
            Figure("surviving_ranks", survivors),
            Figure("resumed_p99_s", percentile(damage.resumed_s, 0.99), RESUMED_WITHIN_S),
        ],
        {"runs": damage.runs, "resumed_median_s": round(percentile(damage.resumed_s, 0.5), 1)},
    )


def _working(stand: Installation, run_id: str) -> bool:
    """Whether there is a process to kill, or none will start any more."""
    run = stand.run(run_id)
    if run.state in FINAL:
        return True
    worker = owner_of(stand, run_id)
    return run.state == RunState.RUNNING and worker is not None and bool(worker.trainers(run_id))


def _survivors(processes: list[psutil.Process]) -> int:
    """How many of them live on."""

    def alive() -> list[psutil.Process]:
        found = []
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    with suppress(TimeoutError):
        wait_for(lambda: not alive(), SURVIVE_S, "the end of all")
    return len(alive())


def _kill(stand: Installation, run_id: str, victim: str) -> list[psutil.Process] | None:
    """Kill one of the run's processes; returns all of them, or None if that one was not there."""
    worker = owner_of(stand, run_id)
    processes = worker.trainers(run_id) if worker is not None else []
    for process in processes:
        with suppress(psutil.Error):
            if process.environ().get("RANK", "launcher") == victim:
                process.kill()
                return processes
    return None
