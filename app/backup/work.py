"""Saves what an unfinished run resumes from: its newest intact checkpoint, its events and log.

Trainers continue meanwhile, so the order matters: first the checkpoint, then the events, which then
include everything up to it, and last the rows, which may already have some of those events and take
the rest from the file.
"""

import logging
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from app.backup.manifest import copy_hashed
from app.settings import Settings
from app.storage import COPY_MANIFEST, WORK, Store, link_or_copy
from kdcore.files import CHUNK_BYTES, MANIFEST, Manifest, ManifestFile

logger = logging.getLogger(__name__)

TRIES = 5
"""A trainer may remove checkpoints while they are linked; then others are complete."""
PINS = ".backup"
"""Links to checkpoints while they are copied; in the data folder, so on the same disk."""
OUTPUTS = ("events.jsonl", "stderr.log", "start_eval.json")


def save_work(settings: Settings, run_id: str, backup: Path) -> list[ManifestFile]:
    """Copy what the run needs to resume; nothing if there is no intact checkpoint."""
    run_dir = settings.work_dir / run_id
    try:
        saved = _save_checkpoint(run_dir, settings.data_dir / PINS, backup)
    finally:
        remove_pins(settings)
    if not saved:
        return []
    for attempt in _numbered(run_dir, "attempt"):
        for name in OUTPUTS:
            saved += _save_lines(attempt / name, backup, _place(run_id, attempt, name))
    return saved


def remove_pins(settings: Settings) -> None:
    """Remove the links to checkpoints."""
    shutil.rmtree(settings.data_dir / PINS, ignore_errors=True)


def _save_checkpoint(run_dir: Path, pins: Path, backup: Path) -> list[ManifestFile]:
    for number in range(TRIES):
        for attempt in _numbered(run_dir, "attempt"):
            pinned = pins / str(number) / attempt.name
            for checkpoint in _pin(attempt / "checkpoints", pinned):
                place = _place(run_dir.name, attempt, f"checkpoints/{checkpoint.name}")
                open_file = partial(_open_path, checkpoint)
                if saved := _copy_verified(open_file, MANIFEST, backup, place):
                    return saved
    return []


def _pin(checkpoints: Path, pinned: Path) -> list[Path]:
    """Links to all checkpoints, newest first; a linked file cannot disappear while it is copied."""
    for checkpoint in _numbered(checkpoints, "step"):
        try:
            for path in sorted(checkpoint.iterdir()):
                link_or_copy(path, pinned / checkpoint.name / path.name)
        except FileNotFoundError:
            continue
    return _numbered(pinned, "step")


def save_copy(store: Store, run_id: str, backup: Path) -> list[ManifestFile]:
    """The newest intact copy in a store that hosts share instead of a data folder.

    Everything up to it was in the rows before it was copied, so it needs no events.
    """
    found = [PurePosixPath(key) for key in store.keys(f"{WORK}/{run_id}")]
    copies = [key.parent for key in found if key.name == COPY_MANIFEST and len(key.parts) == 5]
    for key in sorted(copies, key=lambda each: each.name, reverse=True):
        place = f"copies/{key.relative_to(WORK).as_posix()}"
        if saved := _copy_verified(partial(_open_key, store, key), COPY_MANIFEST, backup, place):
            return saved
    return []


def _open_key(store: Store, folder: PurePosixPath, name: str) -> IO[bytes]:
    return store.open(f"{folder}/{name}")


def _open_path(folder: Path, name: str) -> IO[bytes]:
    return open(folder / name, "rb")


def _copy_verified(
    open_file: Callable[[str], IO[bytes]], manifest: str, backup: Path, place: str
) -> list[ManifestFile]:
    """The files of the copy; none if one of them differs from their manifest."""
    target = backup / place
    saved = []
    try:
        with open_file(manifest) as source:
            files = Manifest.model_validate_json(source.read()).files
        expected = {file.path: file.sha256 for file in files}
        for name in [*expected, manifest]:
            with open_file(name) as source:
                size_bytes, sha256 = copy_hashed(source, target / name)
            if expected.get(name, sha256) != sha256:
                raise ValueError(f"{name} fails its checksum")
            saved.append(ManifestFile(path=f"{place}/{name}", size_bytes=size_bytes, sha256=sha256))
    except (FileNotFoundError, ValueError) as error:
        logger.info("%s is skipped: %s", place, error)
        shutil.rmtree(target, ignore_errors=True)
        return []
    return saved


def _save_lines(source: Path, backup: Path, place: str) -> list[ManifestFile]:
    """Copy a growing file up to its last complete line."""
    try:
        with open(source, "rb") as file:
            end = _end_of_lines(file)
            file.seek(0)
            size_bytes, sha256 = copy_hashed(file, backup / place, limit_bytes=end)
    except FileNotFoundError:
        return []
    return [ManifestFile(path=place, size_bytes=size_bytes, sha256=sha256)]


def _end_of_lines(file: IO[bytes]) -> int:
    """Where the last complete line ends."""
    start = file.seek(0, 2)
    while start > 0:
        start = max(0, start - CHUNK_BYTES)
        file.seek(start)
        newline = file.read(CHUNK_BYTES).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
    return 0


def _place(run_id: str, attempt: Path, name: str) -> str:
    return f"work/{run_id}/{attempt.name}/{name}"


def _numbered(folder: Path, name: str) -> list[Path]:
    """The sub-folders `<name>-<number>`, highest number first."""
    numbers = {path: path.name.removeprefix(f"{name}-") for path in folder.glob(f"{name}-*")}
    found = [path for path, number in numbers.items() if number.isdecimal() and path.is_dir()]
    return sorted(found, key=lambda path: int(numbers[path]), reverse=True)
