"""Finds files without a row, left by interrupted uploads, publishing or deletions; changes no row.

Excludes what a live process may still use: the current attempt of a run, and recently written
files. Files of runs and datasets unknown to this database are reported but never removed, since it
may be the wrong database.
"""

import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import select

from app.datasets.models import Dataset
from app.db import Database
from app.runs.models import Artifact, Run
from app.runs.states import ACTIVE, RunState
from app.schemas import ID_PATTERN
from app.settings import Settings
from app.storage import UPLOADS, Store

AGE_S = 3600.0
"""Files written more recently are excluded."""
CHECKED_BYTES_PER_S = 100_000
"""The inspection of an upload reads faster than this; meanwhile nothing is written."""


@dataclass(frozen=True)
class Leftover:
    """Files in one place without a row."""

    place: str
    """A path, or the common prefix of the keys in the store."""
    size_bytes: int
    known: bool
    """Whether this database knows the run or dataset, so that they may be removed."""
    folder: Path | None = None
    keys: tuple[str, ...] = field(default=(), repr=False)


def leftovers(db: Database, settings: Settings, store: Store) -> list[Leftover]:
    """All leftovers, interrupted uploads first. Raises OSError if the store is unavailable."""
    return [*_incoming(settings), *_unknown_uploads(db, settings), *_in_store(db, store)]


def remove(store: Store, found: list[Leftover]) -> None:
    """Remove the files whose run or dataset is known."""
    for each in (each for each in found if each.known):
        if each.folder is not None:
            shutil.rmtree(each.folder, ignore_errors=True)
        for key in each.keys:
            store.delete_prefix(key)
        if each.keys:
            store.drop_empty_folders(each.place)


def _incoming(settings: Settings) -> Iterator[Leftover]:
    folder = settings.uploads_dir
    for path in sorted(folder.glob(".incoming-*")) if folder.is_dir() else []:
        size_bytes, written_s = _size_and_time(path)
        if time.time() - written_s > AGE_S + size_bytes / CHECKED_BYTES_PER_S:
            yield Leftover(str(path), size_bytes, known=True, folder=path)


def _unknown_uploads(db: Database, settings: Settings) -> Iterator[Leftover]:
    folder = settings.uploads_dir
    found = {path.name: path for path in folder.iterdir()} if folder.is_dir() else {}
    with db.read() as session:
        known = set(session.scalars(select(Dataset.id)))
    for name in sorted(found.keys() - known):
        size_bytes, written_s = _size_and_time(found[name])
        if re.fullmatch(ID_PATTERN, name) and time.time() - written_s > AGE_S:
            yield Leftover(str(found[name]), size_bytes, known=False)


def _in_store(db: Database, store: Store) -> Iterator[Leftover]:
    # Listed before the rows, so that files published meanwhile have their row.
    found = store.sizes()
    with db.read() as session:
        named = set(session.scalars(select(Artifact.storage_key)))
        runs = {
            run_id: (RunState(state), attempt)
            for run_id, state, attempt in session.execute(select(Run.id, Run.state, Run.attempt))
        }
        datasets = set(session.scalars(select(Dataset.id)))
    groups: dict[tuple[str, bool], list[str]] = {}
    for key in found.keys() - named:
        owner, _, rest = key.partition("/")
        part = rest.partition("/")[0]
        if owner == UPLOADS and part not in datasets:
            groups.setdefault((f"{owner}/{part}", False), []).append(key)
        elif re.fullmatch(ID_PATTERN, owner) and part.isdigit():
            state, newest = runs.get(owner, (None, 0))
            if state not in ACTIVE or int(part) < newest:  # else it is being published
                groups.setdefault((f"{owner}/{part}", state is not None), []).append(key)
    for (place, known), keys in sorted(groups.items()):
        if time.time() - max(map(store.written_s, keys)) > AGE_S:
            size_bytes = sum(found[key] for key in keys)
            yield Leftover(place, size_bytes, known, keys=tuple(sorted(keys)))


def _size_and_time(folder: Path) -> tuple[int, float]:
    size_bytes, newest_s = 0, 0.0
    for path in (folder, *folder.rglob("*")):
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue
        newest_s = max(newest_s, status.st_mtime)
        size_bytes += status.st_size if path.is_file() else 0
    return size_bytes, newest_s
