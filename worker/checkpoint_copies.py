"""Copies of checkpoints in the store, from which a worker on another host goes on.

work/<run id>/<attempt>/step-00000120/
    checkpoints/step-00000120/...   start_eval.json   mirror.json

`mirror.json` is put last and has the sha256 of the others: without it there is no copy. The caller
offers a checkpoint only when all that led to it has become rows, so that whoever resumes from the
copy needs nothing else of the lost host: what came after it will be said again.

A store that is a folder is shared as the checkpoints are, so nothing is copied to it.
"""

import logging
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ValidationError

from app.storage import WORK, BadKey, Store, checked_key, link_or_copy
from kdcore.files import sha256_of
from worker.workspace import INHERITED_FILES, Workspace

logger = logging.getLogger(__name__)

MANIFEST = "mirror.json"
KEEP = 2
"""The newest copy, and the one before it in case that one is damaged."""
CLOSE_S = 10.0


class DamagedCopy(Exception):
    """A checkpoint, or a copy of one, is not what its manifest says."""


class _File(BaseModel):
    path: str
    size_bytes: int
    sha256: str


class _Manifest(BaseModel):
    files: list[_File]


class Mirror:
    """Copies the checkpoints of one attempt to the store, in the background; the newest counts."""

    def __init__(self, store: Store, workspace: Workspace, every_s: float) -> None:
        self._store, self._workspace, self._every_s = store, workspace, every_s
        self._changed = threading.Condition()
        self._newest: str | None = None
        """The last one offered."""
        self._waiting = self._busy = self._hurry = self._closed = False
        self._thread: threading.Thread | None = None

    def offer(self, checkpoint: str | None) -> None:
        """A checkpoint, by its path in the run's folder, that may be copied; returns at once."""
        if checkpoint is None or checkpoint == self._newest or self._store.is_local:
            return
        with self._changed:
            if self._closed:
                return
            self._newest, self._waiting = checkpoint, True
            self._changed.notify_all()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)
            self._thread.start()

    def flush(self, timeout_s: float) -> None:
        """Wait until the newest one is copied; for another host may go on from it next."""
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            if not self._changed.wait_for(
                lambda: self._closed or not (self._waiting or self._busy), timeout_s
            ):
                logger.warning("run %s: the last checkpoint was not copied in time", self._run_id)

    def close(self) -> None:
        """Begin nothing more; afterwards the run's folder may be removed."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(CLOSE_S)

    def drop(self) -> None:
        """Remove all copies of the run, which has ended."""
        if self._store.is_local:
            return
        try:
            self._store.delete_prefix(f"{WORK}/{self._run_id}")
        except OSError as error:
            logger.warning("run %s: copies left for later removal: %s", self._run_id, error)

    @property
    def _run_id(self) -> str:
        return self._workspace.run_dir.name

    def _run(self) -> None:
        next_s = time.monotonic()
        while (checkpoint := self._next(next_s)) is not None:
            try:
                self._copy(checkpoint)
            except Exception as error:  # whatever it is, the next one may work
                logger.warning("run %s: %s is not copied: %s", self._run_id, checkpoint, error)
            next_s = time.monotonic() + self._every_s
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def _next(self, due_s: float) -> str | None:
        with self._changed:
            while not self._closed:
                wait_s = 0.0 if self._hurry else due_s - time.monotonic()
                if self._waiting and wait_s <= 0:
                    self._waiting, self._busy = False, True
                    return self._newest
                self._changed.wait(wait_s if self._waiting else None)
            return None

    def _copy(self, checkpoint: str) -> None:
        staged = self._stage(checkpoint)
        if staged is None:
            return
        try:
            files = _described(staged)
            _check_own_manifest(staged, checkpoint, files)
            (staged / MANIFEST).write_text(_Manifest(files=files).model_dump_json())
            name = PurePosixPath(checkpoint).name
            key = f"{WORK}/{self._run_id}/{self._workspace.attempt}/{name}"
            for path in [*(file.path for file in files), MANIFEST]:
                if self._closed:
                    return
                self._store.put_file(staged / path, f"{key}/{path}")
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        self._drop_older(_step_of(name))

    def _stage(self, checkpoint: str) -> Path | None:
        """Links to what is copied, since the trainer drops its older checkpoints meanwhile.

        None once closed: the folder may be gone, and must not be made anew.
        """
        folder = self._workspace.folder
        staged = folder / "mirror.partial"
        shutil.rmtree(staged, ignore_errors=True)
        with self._changed:
            if self._closed:
                return None
            for source in sorted((folder / checked_key(checkpoint)).rglob("*")):
                if source.is_file():
                    link_or_copy(source, staged / source.relative_to(folder))
            for name in INHERITED_FILES:
                if (folder / name).exists():
                    link_or_copy(folder / name, staged / name)
        return staged

    def _drop_older(self, step: int) -> None:
        """Keep the last copies. What a later attempt put there is none of this one's business."""
        mine = [
            copy
            for copy in _copies(self._store, self._run_id)
            if copy.attempt <= self._workspace.attempt and copy.step <= step
        ]
        for old in mine[KEEP:]:
            self._store.delete_prefix(old.key)


@dataclass(frozen=True, order=True)
class _Copy:
    step: int
    attempt: int
    key: str


def fetch_newest(store: Store, run_id: str, workspace: Workspace) -> tuple[int | None, list[str]]:
    """Bring the newest sound copy into the workspace: its step, and why newer ones were refused.

    Raises StoreAway.
    """
    refused = []
    for copy in _copies(store, run_id):
        try:
            _fetch(store, copy, workspace)
        except (FileNotFoundError, DamagedCopy) as error:
            refused.append(f"the copy of update {copy.step} is not whole: {error}")
        else:
            return copy.step, refused
    return None, refused


def _copies(store: Store, run_id: str) -> list[_Copy]:
    """All whole copies, newest first."""
    found = []
    for key in store.keys(f"{WORK}/{run_id}"):
        place = PurePosixPath(key)
        if place.name == MANIFEST and len(place.parts) == 5:
            found.append(
                _Copy(_step_of(place.parts[3]), int(place.parts[2]), place.parent.as_posix())
            )
    return sorted(found, reverse=True)


def _step_of(name: str) -> int:
    """The step of a checkpoint by its folder's name, `step-00000120`."""
    return int(name.removeprefix("step-"))


def _fetch(store: Store, copy: _Copy, workspace: Workspace) -> None:
    partial = workspace.folder / "checkpoints.partial"
    shutil.rmtree(partial, ignore_errors=True)
    store.fetch(f"{copy.key}/{MANIFEST}", partial / MANIFEST)
    try:
        manifest = _Manifest.model_validate_json((partial / MANIFEST).read_bytes())
        paths = [checked_key(file.path) for file in manifest.files]
    except (ValidationError, BadKey) as error:
        raise DamagedCopy(f"its manifest is unreadable: {error}") from error
    for path in paths:
        store.fetch(f"{copy.key}/{path}", partial / path)
    if _described(partial) != sorted(manifest.files, key=lambda file: file.path):
        raise DamagedCopy("it differs from its manifest")
    for name in INHERITED_FILES:
        if (partial / name).exists():
            (partial / name).replace(workspace.folder / name)
    # As a whole: a trainer must never find half of what there is.
    (partial / workspace.checkpoints.name).rename(workspace.checkpoints)
    shutil.rmtree(partial)


def _described(folder: Path) -> list[_File]:
    """Every file below `folder`, in the order of their paths."""
    return [
        _File(path=name, size_bytes=path.stat().st_size, sha256=sha256_of(path))
        for name, path in sorted(
            (path.relative_to(folder).as_posix(), path)
            for path in folder.rglob("*")
            if path.is_file()
        )
        if name != MANIFEST
    ]


def _check_own_manifest(staged: Path, checkpoint: str, files: list[_File]) -> None:
    """Only a good checkpoint is worth a copy; its own manifest names all files but itself."""
    try:
        own = _Manifest.model_validate_json((staged / checkpoint / "manifest.json").read_bytes())
    except ValidationError as error:
        raise DamagedCopy(f"its manifest is unreadable: {error}") from error
    found = {file.path: file.sha256 for file in files}
    for file in own.files:
        if found.get(f"{checkpoint}/{file.path}") != file.sha256:
            raise DamagedCopy(f"{file.path} fails its checksum")
