"""Bits that turn around on the disk: in checkpoints, in published files, in inputs."""

import io
import random
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
from sqlalchemy import select

from app.cli.client import Json
from app.runs.models import Artifact, LogLine
from app.runs.states import RunState
from faults import save_targets
from faults.figures import Figure, Row
from faults.installation import Installation, installation, teacher
from faults.kills import Damage
from faults.trial import Trial
from kdcore.train.checkpoint import Checkpointer

UPDATES = 120


def bitflips(trial: Trial) -> Iterator[Row]:
    """In the library many times, in a running installation some times."""
    yield _checkpoints(trial)
    with installation(trial.new_folder("bitflips")) as stand:
        corpus = stand.upload_text()
        stand.undisturbed = stand.client.submit_run(teacher(corpus, UPDATES))["id"]
        stand.wait_final([stand.undisturbed])
        yield _resumed(trial, stand, corpus)
        yield _downloads(trial, stand)
        yield _inputs(trial, stand, corpus)


def flip(path: Path, draw: random.Random) -> None:
    """Turn one bit of a file around."""
    data = bytearray(path.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def _checkpoints(trial: Trial) -> Row:
    """One bit of the newest checkpoint; the one before must be taken."""
    draw, times = trial.random("bits"), trial.times(200, 5000)
    folder = trial.new_folder("bits")
    checkpointer = Checkpointer(folder)
    for step in range(1, save_targets.BEFORE + 1):
        save_targets.save(checkpointer, step)
    newest = folder / f"step-{save_targets.BEFORE:08d}"
    files = sorted(newest.iterdir())
    undetected = silent = 0
    for _ in range(times):
        file = draw.choice(files)
        whole = file.read_bytes()
        flip(file, draw)
        found, refused = checkpointer.load_newest()
        undetected += found is None or found.step != save_targets.BEFORE - 1
        silent += not refused
        file.write_bytes(whole)
    return Row(
        "one bit turned around in the newest checkpoint",
        times,
        "`checkpoint skipped: ...`, then it goes on from the one before",
        [Figure("undetected_flips", undetected), Figure("silent_flips", silent)],
    )


def _resumed(trial: Trial, stand: Installation, corpus: Json) -> Row:
    """A run whose worker was killed finds its newest checkpoints damaged."""
    draw, times = trial.random("resumed"), trial.times(1, 3)
    damage, silent = Damage(), 0
    (worker,) = stand.workers
    for number in range(times):
        trial.say(f"damaged checkpoints: {number + 1} of {times}")
        run_id = stand.client.submit_run(teacher(corpus, UPDATES))["id"]
        stand.wait_points(run_id, draw.randrange(10, 60))
        worker.kill()
        attempt = max((stand.data_dir / "work" / run_id).iterdir())
        there = sorted((attempt / "checkpoints").glob("step-*"), reverse=True)
        for checkpoint in there[: draw.randrange(1, len(there) + 1)]:
            flip(draw.choice(sorted(checkpoint.iterdir())), draw)
        worker.start()
        stand.wait_final([run_id])
        damage.compare(stand, run_id, stand.undisturbed)
        silent += not any("checkpoint skipped" in line for line in _log(stand, run_id))
    return Row(
        "worker killed, then a bit turned around in one to all of the run's checkpoints",
        times,
        "`checkpoint skipped: step-00000042: model.safetensors fails its checksum`, then it "
        "goes on from one before, or from the start",
        [*damage.figures(), Figure("silent_flips", silent)],
    )


def _log(stand: Installation, run_id: str) -> list[str]:
    with stand.db.read() as session:
        return list(session.scalars(select(LogLine.message).where(LogLine.run_id == run_id)))


def _downloads(trial: Trial, stand: Installation) -> Row:
    """Published files, before and after a first download; whole, in parts, as a zip."""
    draw, times = trial.random("downloads"), trial.times(40, 1000)
    run_id = stand.undisturbed
    with stand.db.read() as session:
        rows = session.scalars(select(Artifact).where(Artifact.run_id == run_id)).all()
    undetected = unexplained = broken_for_good = 0
    for number in range(times):
        trial.say(f"damaged downloads: {number + 1} of {times}")
        row = draw.choice(rows)
        stored = stand.data_dir / "artifacts" / row.storage_key
        whole = stored.read_bytes()
        position = draw.randrange(len(whole))
        url, headers = f"/runs/{run_id}/artifacts/{row.path}", {}
        what = draw.choice(("whole", "part", "zip"))
        if what == "part":
            headers["Range"] = f"bytes={draw.randrange(position + 1)}-{position}"
        elif what == "zip":
            url = f"/runs/{run_id}/checkpoint"
        expected = _arrived(stand, url, headers)
        data = bytearray(whole)
        data[position] ^= 1 << draw.randrange(8)
        stored.write_bytes(data)
        undetected += _arrived(stand, url, headers) is not None
        again = stand.http.get(url, headers=headers)
        detail = again.json()["detail"] if again.status_code == 500 else ""
        unexplained += row.path not in detail
        stored.write_bytes(whole)
        broken_for_good += expected is None or _arrived(stand, url, headers) != expected
    return Row(
        "one bit turned around in a published file, between two downloads",
        times,
        "the download breaks off; the next one is refused: `'model.safetensors' in the store is "
        "not what the run published`",
        [
            Figure("undetected_flips", undetected),
            Figure("refused_without_words", unexplained),
            Figure("sound_files_refused", broken_for_good),
        ],
    )


def _arrived(stand: Installation, url: str, headers: dict[str, str]) -> list[bytes] | None:
    """The files, or the part of one, that a download brought; None if it broke off or was
    refused."""
    with suppress(httpx.RemoteProtocolError):
        response = stand.http.get(url, headers=headers)
        if response.is_success and response.headers["content-type"] == "application/zip":
            # Not the archive itself, which holds the time of its making.
            with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
                return [archive.read(name) for name in archive.namelist()]
        if response.is_success:
            return [response.content]
    return None


def _inputs(trial: Trial, stand: Installation, corpus: Json) -> Row:
    """A run that starts from a result or an upload which the disk has spoilt since."""
    draw, times = trial.random("inputs"), trial.times(1, 5)
    with stand.db.read() as session:
        key = session.scalars(
            select(Artifact.storage_key).where(
                Artifact.run_id == stand.undisturbed, Artifact.path == "model.safetensors"
            )
        ).one()
    prune = {"kind": "prune", "teacher": {"source": "run", "run_id": stand.undisturbed}}
    victims = (
        (stand.data_dir / "artifacts" / key, prune),
        (stand.data_dir / "uploads" / corpus["dataset_id"] / "data.txt", teacher(corpus, 2)),
    )
    undetected = 0
    for stored, config in victims:
        whole = stored.read_bytes()
        for _ in range(times):
            flip(stored, draw)
            (run,) = stand.wait_final([stand.client.submit_run(config)["id"]])
            undetected += run.state != RunState.FAILED or run.error_code != "data"
            stored.write_bytes(whole)
    return Row(
        "one bit turned around in the result or the upload that a run starts from",
        times * len(victims),
        "failed, `data`: `the file of dataset ... is damaged: it differs from what was uploaded`",
        [Figure("undetected_flips", undetected)],
    )
