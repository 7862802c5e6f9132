"""Disks without room: for checkpoints, results, published files, uploads and the database."""

import os
import pwd
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

from sqlalchemy import text

from app.cli.client import Json
from app.runs.models import Run
from app.runs.states import FINAL, RunState
from faults.figures import Figure, Row
from faults.installation import Installation, installation, teacher, wait_for
from faults.kills import Damage
from faults.small_disk import MIB, SmallDisk, small_disk
from faults.trial import Trial
from kdcore.train.checkpoint import Checkpointer

UPDATES = 80
ENDLESS = 20_000
DATABASE_BYTES = 400 * MIB
"""More than what the server wants to see free before it calls itself ready."""
UPLOADS_BYTES = 80 * MIB
"""Uploads leave 64 MiB to the database, which may lie on the same disk."""


def disk(trial: Trial) -> Iterator[Row]:
    """On SQLite everything; on Postgres the database only."""
    with ExitStack() as stack:
        whole = stack.enter_context(small_disk(trial.new_folder("disk"), DATABASE_BYTES))
        stand = stack.enter_context(installation(whole.folder / "stand", workers=0))
        work, uploads, artifacts = (
            stack.enter_context(small_disk(stand.data_dir / name, size_bytes))
            for name, size_bytes in (
                ("work", 32 * MIB),
                ("uploads", UPLOADS_BYTES),
                ("artifacts", 16 * MIB),
            )
        )
        corpus = stand.upload_text()
        stand.start_worker()
        stand.undisturbed = stand.client.submit_run(teacher(corpus, UPDATES))["id"]
        stand.wait_final([stand.undisturbed])
        yield _checkpoints(trial, stand, corpus, work)
        yield _results(trial, stand, corpus, work, artifacts)
        yield _uploads(stand, uploads)
        yield _database(trial, stand, corpus, whole)
    yield from _postgres(trial)


@dataclass
class _Failures:
    """What runs said that ended for want of room."""

    misnamed: list[str] = field(default_factory=list)
    without_bytes: int = 0
    by_status: int = 0
    """Of trainers that could not write it into their events: their exit status said it."""
    retried: int = 0

    def count(self, run: Run) -> None:
        message = run.error_message or ""
        if run.state != RunState.FAILED or run.error_code != "disk_full":
            self.misnamed.append(f"{run.state} {run.error_code}: {message[-300:]}")
        by_status = "not even its events" in message
        told = any(words in message for words in ("bytes were needed", "bytes in the store"))
        self.by_status += by_status
        self.without_bytes += not told and not by_status
        self.retried += run.attempt > 1

    def figures(self) -> list[Figure]:
        return [
            Figure("misnamed_failures", len(self.misnamed), reason="; ".join(self.misnamed)),
            Figure("failures_without_bytes", self.without_bytes),
            Figure("retried_runs", self.retried),
        ]


def _keep_full(stand: Installation, disk: SmallDisk, run_id: str, leave_bytes: int) -> Run:
    """Fill the disk, again and again, until the run has ended."""

    def ended() -> bool:
        disk.fill(leave_bytes)
        return stand.run(run_id).state in FINAL

    wait_for(ended, 120, f"the end of {run_id} on a full disk", every_s=0.02)
    disk.clear()
    return stand.run(run_id)


def _wait_training(stand: Installation, run_id: str) -> None:
    wait_for(lambda: stand.run(run_id).phase == "training", 120, f"the training of {run_id}")


def _checkpoints(trial: Trial, stand: Installation, corpus: Json, work: SmallDisk) -> Row:
    draw, times = trial.random("disk", "checkpoints"), trial.times(1, 10)
    failures, corrupt, leftovers = _Failures(), 0, 0
    for number in range(times):
        trial.say(f"full disk at a checkpoint: {number + 1} of {times}")
        run_id = stand.client.submit_run(teacher(corpus, ENDLESS))["id"]
        stand.wait_points(run_id, draw.randrange(2, 30))
        failures.count(_keep_full(stand, work, run_id, draw.randrange(150_000)))
        folder = stand.data_dir / "work" / run_id / "attempt-1" / "checkpoints"
        found, refused = Checkpointer(folder).load_newest()
        corrupt += found is None or bool(refused)
        leftovers += len(list(folder.glob(".tmp-*")))
        stand.http.delete(f"/runs/{run_id}").raise_for_status()
    return Row(
        "disk full at a checkpoint",
        times,
        "failed, `disk_full`: `no space left in ...: 171,008 bytes were needed, 20,480 bytes are "
        "free`; the last good checkpoint stays",
        [
            *failures.figures(),
            Figure("corrupt_files", corrupt),
            Figure("leftovers", leftovers),
        ],
        {"reported by exit status": failures.by_status},
    )


def _results(
    trial: Trial, stand: Installation, corpus: Json, work: SmallDisk, artifacts: SmallDisk
) -> Row:
    """The trainer's result, and its way into the store."""
    draw, times = trial.random("disk", "results"), trial.times(2, 6)
    failures, leftovers = _Failures(), 0
    seldom = {"log_every_steps": 50, "checkpoint_every_s": 3600}
    for number in range(times):
        trial.say(f"full disk at a result: {number + 1} of {times}")
        run_id = stand.client.submit_run(teacher(corpus, UPDATES, reporting=seldom))["id"]
        if number % 2:
            artifacts.fill(draw.randrange(80_000))
            (run,) = stand.wait_final([run_id])
            artifacts.clear()
        else:
            _wait_training(stand, run_id)
            run = _keep_full(stand, work, run_id, draw.randrange(20_000, 60_000))
        failures.count(run)
        published = stand.data_dir / "artifacts" / run_id
        leftovers += len([path for path in published.rglob("*") if path.is_file()])
        stand.http.delete(f"/runs/{run_id}").raise_for_status()
    again = stand.client.submit_run(teacher(corpus, UPDATES))["id"]
    stand.wait_final([again])
    damage = Damage()
    damage.compare(stand, again, stand.undisturbed)
    return Row(
        "disk full at the result, or at its way into the store",
        times,
        "failed, `disk_full`, with the bytes that were needed; once there is room, the next run "
        "succeeds",
        [*failures.figures(), Figure("leftovers", leftovers), *damage.figures()],
        {"reported by exit status": failures.by_status},
    )


def _uploads(stand: Installation, uploads: SmallDisk) -> Row:
    """Once with a length that is known beforehand, once without."""
    before = sorted(uploads.folder.rglob("*"))
    line = b"a line of text that fills the disk\n"
    announced = stand.http.post(
        "/datasets", files={"file": ("big.txt", line * (UPLOADS_BYTES // len(line) // 2))}
    )
    head = (
        b'--edge\r\nContent-Disposition: form-data; name="file"; filename="big.txt"\r\n'
        b"Content-Type: text/plain\r\n\r\n"
    )

    def body() -> Iterator[bytes]:
        yield head
        for _ in range(2 * UPLOADS_BYTES // MIB):
            yield line * (MIB // len(line))
        yield b"\r\n--edge--\r\n"

    streamed = stand.http.post(
        "/datasets",
        content=body(),
        headers={"Content-Type": "multipart/form-data; boundary=edge"},
    )
    answers = [announced, streamed]
    leftovers = set(uploads.folder.rglob("*")) - set(before)
    stand.upload_text(seed=5)
    return Row(
        "disk full at an upload",
        len(answers),
        f"507: `{streamed.json()['detail']}`",
        [
            Figure("refused_without_words", sum(_unworded(each.status_code) for each in answers)),
            Figure("leftovers", len(leftovers)),
        ],
    )


def _unworded(status: int) -> bool:
    return status != 507


def _database(trial: Trial, stand: Installation, corpus: Json, disk: SmallDisk) -> Row:
    """While a run trains, the database cannot grow for a while."""
    draw, times = trial.random("disk", "database", stand.kind), trial.times(1, 3)
    damage, unworded, unread = Damage(), 0, 0
    for number in range(times):
        trial.say(f"full disk at the database: {number + 1} of {times}")
        run_id = stand.client.submit_run(teacher(corpus, UPDATES))["id"]
        stand.wait_points(run_id, draw.randrange(1, 30))
        disk.fill()
        until_s = time.monotonic() + (draw.uniform(10, 60) if trial.long else 3)
        while time.monotonic() < until_s:
            submitted = stand.http.post("/runs", json={"config": teacher(corpus, 1)})
            # There may be room in a page that the database has already.
            unworded += submitted.status_code not in (201, 507)
            if submitted.status_code == 201:
                stand.http.post(f"/runs/{submitted.json()['id']}/cancel")
            unread += stand.http.get(f"/runs/{run_id}").status_code != 200
            time.sleep(0.3)
        disk.clear()
        stand.wait_final([run_id])
        damage.compare(stand, run_id, stand.undisturbed)
    return Row(
        f"disk full at the database, {stand.kind}",
        times,
        "507 for what would have to be stored, training goes on; with room, the curve catches up",
        [
            *damage.figures(),
            Figure("refused_without_words", unworded),
            Figure("unreadable_answers", unread),
            Figure("corrupt_files", _corrupt(stand)),
        ],
    )


def _corrupt(stand: Installation) -> int:
    if stand.kind == "postgres":
        return 0  # a run that compares equal has been read whole
    with stand.db.read() as session:
        return int(session.execute(text("PRAGMA integrity_check")).scalars().all() != ["ok"])


def _postgres(trial: Trial) -> Iterator[Row]:
    """The tables that grow lie in a tablespace on a small disk."""
    with installation(trial.new_folder("disk"), "postgres", workers=0) as stand:
        assert stand.postgres is not None
        with small_disk(stand.postgres.folder / "small", 8 * MIB) as disk:
            if os.geteuid() == 0:
                nobody = pwd.getpwnam("nobody")
                shutil.chown(disk.folder, nobody.pw_uid, nobody.pw_gid)
            stand.postgres.execute(f"CREATE TABLESPACE small LOCATION '{disk.folder}'")
            with stand.db.write() as session:
                for table in ("metric_points", "log_lines"):
                    session.execute(text(f"ALTER TABLE {table} SET TABLESPACE small"))
            corpus = stand.upload_text()
            stand.start_worker()
            stand.undisturbed = stand.client.submit_run(teacher(corpus, UPDATES))["id"]
            stand.wait_final([stand.undisturbed])
            yield _database(trial, stand, corpus, disk)
