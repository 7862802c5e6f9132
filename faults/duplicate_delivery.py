"""One run, delivered or claimed twice: repeated messages, races for a claim, thawed workers."""

import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import psutil
from sqlalchemy import select

from app.cli.client import Json
from app.db import new_id
from app.queue import JobQueue
from app.runs import lifecycle
from app.runs.models import Artifact, Run
from app.runs.states import FINAL, RunState
from faults.figures import Figure, Row
from faults.installation import Installation, Kind, Process, installation, teacher, wait_for
from faults.kills import Damage, owner_of
from faults.trial import Trial

UPDATES = 200
WORKERS = 2
MESSAGES = 100
RACERS = 8
LEASE_S = 6.0


def duplicate_delivery(trial: Trial) -> Iterator[Row]:
    """On Postgres, where writers really meet; the claims on SQLite too."""
    kinds: tuple[Kind, ...] = ("postgres", "sqlite") if trial.long else ("postgres",)
    for kind in kinds:
        with installation(
            trial.new_folder("duplicate-delivery"), kind, workers=0, HALFLAYER_LEASE_S=str(LEASE_S)
        ) as stand:
            yield _claims(trial, stand)
            for _ in range(WORKERS):
                stand.start_worker()
            corpus = stand.upload_text()
            stand.undisturbed = stand.client.submit_run(teacher(corpus, UPDATES))["id"]
            stand.wait_final([stand.undisturbed])
            yield _repeated_messages(trial, stand, corpus)
            yield _frozen(trial, stand, corpus)


# ------------------------------------------------------------------------------------- claims


def _claims(trial: Trial, stand: Installation) -> Row:
    """Many at once want the same run, before there is any worker."""
    rounds = trial.times(20, 200)
    won: Counter[str] = Counter()
    for _ in range(rounds):
        run = Run(
            id=new_id(),
            name="wanted",
            kind="teacher",
            state=RunState.QUEUED,
            config=teacher({"source": "upload", "dataset_id": "d" * 12}, 1),
        )
        with stand.db.write() as session:
            session.add(run)
        together = threading.Barrier(RACERS)

        def race(run_id: str = run.id, together: threading.Barrier = together) -> None:
            together.wait()
            with stand.db.write() as session:
                claimed = lifecycle.claim(session, run_id, "w00000000001")
            if claimed is not None:
                won[claimed.id] += 1

        racers = [threading.Thread(target=race) for _ in range(RACERS)]
        for racer in racers:
            racer.start()
        for racer in racers:
            racer.join()
        with stand.db.write() as session:
            lifecycle.fail(session, run.id, 1, "internal", "enough")
    return Row(
        f"{RACERS} at once claim one run, {stand.kind}",
        rounds,
        "one gets it",
        [
            Figure("double_executions", sum(count - 1 for count in won.values())),
            Figure("unclaimed", rounds - len(won)),
        ],
    )


# --------------------------------------------------------------------------- repeated messages


def _repeated_messages(trial: Trial, stand: Installation, corpus: Json) -> Row:
    """The same message again and again, while the run waits, trains and has ended."""
    damage, most = Damage(), 0
    job_queue = JobQueue(stand.settings)
    times = trial.times(1, 2)
    for _ in range(times):
        run_id = stand.client.submit_run(teacher(corpus, UPDATES))["id"]
        for number in range(MESSAGES):
            assert job_queue.enqueue(run_id)
            if number % 20 == 0:
                most = max(most, _executions(stand, run_id))
        while stand.run(run_id).state not in FINAL:
            most = max(most, _executions(stand, run_id))
            time.sleep(0.1)
        job_queue.enqueue(run_id)
        wait_for(lambda: job_queue.length() == 0, 60, "all messages to be handled")
        damage.compare(stand, run_id, stand.undisturbed)
        most = max(most, stand.run(run_id).attempt)
    job_queue.close()
    return Row(
        f"the same message sent {MESSAGES} times, {WORKERS} workers, {stand.kind}",
        times,
        "one result",
        [*damage.figures(), Figure("double_executions", most - 1)],
    )


def _executions(stand: Installation, run_id: str) -> int:
    return sum(len(worker.trainers(run_id)) for worker in stand.workers)


# -------------------------------------------------------------------------------------- frozen


@dataclass
class Frozen:
    """A worker and all that it started, stopped at the same moment."""

    worker: Process

    def __post_init__(self) -> None:
        self.worker.signal(signal.SIGSTOP)
        self.children = psutil.Process(self.worker.process.pid).children(recursive=True)
        for child in self.children:
            with suppress(psutil.Error):
                child.suspend()

    def thaw(self) -> None:
        for child in self.children:
            with suppress(psutil.Error):
                child.resume()
        self.worker.signal(signal.SIGCONT)


def _frozen(trial: Trial, stand: Installation, corpus: Json) -> Row:
    damage = Damage()
    stale_writes = double_results = left_behind = 0
    gone_s: list[float] = []
    draw = trial.random("frozen", stand.kind)
    spells_s = [120.0, *[LEASE_S + 4] * 3] if trial.long else [LEASE_S + 3]
    while spells_s:
        trial.say(f"frozen for {spells_s[-1]:.0f} s on {stand.kind}")
        run_id = stand.client.submit_run(teacher(corpus, UPDATES))["id"]
        stand.wait_points(run_id)
        time.sleep(draw.uniform(0, 0.5))
        worker = owner_of(stand, run_id)
        if worker is None:  # the run was quicker
            continue
        attempt, stale = stand.run(run_id).attempt, worker.trainers(run_id)
        frozen = Frozen(worker)
        time.sleep(spells_s.pop())
        frozen.thaw()
        thawed_s = time.monotonic()
        psutil.wait_procs(stale, timeout=120)
        gone_s.append(time.monotonic() - thawed_s)
        [run] = stand.wait_final([run_id])
        damage.compare(stand, run_id, stand.undisturbed)
        if run.attempt > attempt:
            stale_writes += _rows_after_takeover(stand, run_id, attempt)
        double_results += _results(stand, run_id) - 1
        left_behind += int((stand.data_dir / "work" / run_id).exists())
    return Row(
        f"a worker and its trainer frozen beyond the lease, then thawed, {stand.kind}",
        damage.runs,
        "another worker goes on; one result",
        [
            *damage.figures(),
            Figure("stale_writes", stale_writes),
            Figure("double_executions", double_results),
            Figure("folders_left", left_behind),
        ],
        {"stale_trainer_gone_max_s": round(max(gone_s, default=0.0), 1)},
    )


def _rows_after_takeover(stand: Installation, run_id: str, attempt: int) -> int:
    """Rows of the frozen attempt that were written after the first one of a later attempt."""
    points = stand.points(run_id)
    taken_over = min((p.seq for p in points if p.attempt > attempt), default=0)
    return sum(p.attempt <= attempt and p.seq > taken_over for p in points)


def _results(stand: Installation, run_id: str) -> int:
    """How many attempts have published files, in rows or in the store."""
    with stand.db.read() as session:
        rows = session.scalars(select(Artifact.attempt).where(Artifact.run_id == run_id)).all()
    folder = stand.data_dir / "artifacts" / run_id
    in_store = {int(path.name) for path in folder.iterdir()} if folder.exists() else set()
    return len(set(rows) | in_store)
