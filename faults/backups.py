"""Backups of an installation at work, restored into a new one on the other database."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from sqlalchemy import select

from app.datasets.models import Dataset
from app.runs.models import Artifact, LogLine, MetricPoint, Run, RunInput
from app.runs.states import RunState
from app.storage import Store
from faults.figures import Figure, Row
from faults.installation import IMPATIENT, ROOT, Installation, Kind, installation, teacher
from faults.kills import Damage
from faults.trial import Trial
from kdcore.files import size_and_sha256

UPDATES = 120
TABLES = (Run, RunInput, MetricPoint, LogLine, Artifact, Dataset)


def _command(stand: Installation, *words: str) -> subprocess.CompletedProcess[str]:
    """`halflayer ...`, as an operator of this installation types it."""
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *words],
        env=stand.environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def _must(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout + done.stderr


def _rows(stand: Installation, run_id: str) -> set[str]:
    """All that the database says of one run, and of all uploads."""
    found = set()
    with stand.db.read() as session:
        for model in TABLES:
            query = select(*model.__table__.columns)
            if model is not Dataset:
                key = "id" if model is Run else "run_id"
                query = query.where(model.__table__.columns[key] == run_id)
            found |= {f"{model.__name__} {row}" for row in map(tuple, session.execute(query))}
    return found


def _files(stand: Installation, run_id: str) -> set[str]:
    """Path and SHA-256 of the run's files and of all uploads."""
    store, uploads = Store(stand.settings), stand.settings.uploads_dir
    with stand.db.read() as session:
        rows = session.execute(
            select(Artifact.storage_key).where(Artifact.run_id == run_id)
        ).scalars()
        found = set()
        for key in rows:
            with store.open(key) as file:
                found.add(f"{key} {size_and_sha256(file)}")
    for path in uploads.rglob("data.*"):
        with open(path, "rb") as file:
            found.add(f"{path.relative_to(uploads)} {size_and_sha256(file)}")
    return found


def _flip(trial: Trial, stand: Installation, backup: Path, times: int) -> int:
    """Flip single bits of the backup; returns how many were not noticed by name."""
    draw, unnoticed = trial.random("flips", backup.name), 0
    files = [path for path in sorted(backup.rglob("*")) if path.is_file() and path.stat().st_size]
    for path in draw.choices(files, k=times):
        whole = path.read_bytes()
        flipped = bytearray(whole)
        flipped[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        checked = _command(stand, "restore", str(backup), "--check")
        name = path.relative_to(backup).as_posix().removesuffix(".sha256")
        unnoticed += checked.returncode == 0 or name not in checked.stderr
        path.write_bytes(whole)
    return unnoticed


def _direction(trial: Trial, kind: Kind, other: Kind) -> Iterator[Row]:
    damage, differences, unnoticed, restored_s = Damage(), 0, 0, 0.0
    draw = trial.random("backup", kind)
    with installation(trial.new_folder("source"), kind) as stand:
        corpus = stand.upload_text()
        config = teacher(corpus, UPDATES)
        stand.undisturbed = stand.client.submit_run(config)["id"]
        stand.wait_final([stand.undisturbed])
        backups: list[tuple[Path, str]] = []
        for number in range(trial.times(1, 2)):
            trial.say(f"backup {number + 1} on {kind}")
            run_id = stand.client.submit_run(config)["id"]
            stand.wait_points(run_id, draw.randrange(1, UPDATES // 2))
            folder = stand.folder / f"backup-{number}"
            _must(_command(stand, "backup", str(folder)))
            backups.append((folder, run_id))
            stand.wait_final([run_id])
            damage.lost_runs += stand.run(run_id).state != RunState.SUCCEEDED
        for folder, run_id in backups:
            trial.say(f"{folder.name} of {kind} into {other}")
            with ExitStack() as stack:
                target = Installation(trial.new_folder("target"), other, stack, IMPATIENT)
                start_s = time.monotonic()
                _must(_command(target, "restore", str(folder)))
                restored_s = max(restored_s, time.monotonic() - start_s)
                for look in (_rows, _files):
                    before, after = (look(each, stand.undisturbed) for each in (stand, target))
                    differences += len(before ^ after)
                target.start_api()
                target.start_worker()
                with target.db.read() as session:
                    ids = list(session.scalars(select(Run.id)))
                if run_id not in ids:
                    damage.lost_runs += 1
                    continue
                target.wait_final([run_id])
                damage.compare(target, run_id, stand.undisturbed)
        unnoticed += _flip(trial, stand, backups[0][0], trial.times(1, 10))
    yield Row(
        f"backup while a run trains, {kind}; restored into {other}, where the run goes on",
        len(backups),
        "nothing; after the restore the run is `queued` and goes on from its checkpoint",
        [
            Figure("restored_differences", differences),
            Figure("backup_lost_runs", damage.lost_runs),
            Figure("backup_bits_unnoticed", unnoticed),
            *[each for each in damage.figures() if each.name != "lost_runs"],
        ],
        {"restore_s": round(restored_s, 1)},
    )


def backup(trial: Trial) -> Iterator[Row]:
    """Backups at random moments; both ways between the databases, the short form one way."""
    yield from _direction(trial, "sqlite", "postgres")
    if trial.long:
        yield from _direction(trial, "postgres", "sqlite")
