"""Copies of checkpoints in the store, from which a worker on another host resumes.

work/<run id>/<attempt>/step-00000120/
    checkpoints/step-00000120/...   start_eval.json   mirror.json

`mirror.json` is written last and has the sha256 of the others: without it the copy is incomplete.
The caller offers a checkpoint only when all events up to it are rows, so resuming from the copy
needs nothing else from the lost host: later steps are trained and reported again.

A store that is a folder is shared, as the checkpoints then are, so nothing is copied to it.
"""

import logging
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from app.storage import COPY_MANIFEST, WORK, Store, checked_key, link_or_copy
from kdcore.files import MANIFEST, Manifest
from worker.workspace import INHERITED_FILES, Workspace

logger = logging.getLogger(__name__)

KEEP = 2
"""The newest copy, and the one before it in case that one is damaged."""
CLOSE_S = 10.0


class DamagedCopy(Exception):
    """A checkpoint, or a copy of one, is not what its manifest says."""


class CheckpointCopier:
    """Copies the checkpoints of one attempt to the store, in the background; only the newest."""

    def __init__(self, store: Store, workspace: Workspace, every_s: float) -> None:
        self._store, self._workspace, self._every_s = store, workspace, every_s
        self._changed = threading.Condition()
        self._newest: str | None = None
        """The last one offered."""
        self._waiting = self._busy = self._flushing = self._closed = False
        self._thread: threading.Thread | None = None

    def offer(self, checkpoint: str | None) -> None:
        """Have a checkpoint copied, by its path in the attempt's folder; returns at once."""
        if checkpoint is None or checkpoint == self._newest or self._store.is_local:
            return
        with self._changed:
            if self._closed:
                return
            self._newest, self._waiting = checkpoint, True
            self._changed.notify_all()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="checkpoint-copier", daemon=True)
            self._thread.start()

    def flush(self, timeout_s: float) -> None:
        """Wait until the newest one is copied, because another host may resume from it next."""
        with self._changed:
            self._flushing = True
            self._changed.notify_all()
            if not self._changed.wait_for(
                lambda: self._closed or not (self._waiting or self._busy), timeout_s
            ):
                logger.warning("run %s: the last checkpoint was not copied in time", self._run_id)

    def close(self) -> None:
        """Start no more copies; afterwards the run's folder may be removed."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(CLOSE_S)

    def remove_all(self) -> None:
        """Remove all copies of the run, which has ended."""
        if self._store.is_local:
            return
        try:
            self._store.delete_prefix(f"{WORK}/{self._run_id}")
        except OSError as error:
            logger.warning("run %s: copies will be removed later: %s", self._run_id, error)

    @property
    def _run_id(self) -> str:
        return self._workspace.run_dir.name

    def _run(self) -> None:
        next_s = time.monotonic()
        while (checkpoint := self._next(next_s)) is not None:
            try:
                self._copy(checkpoint)
            except Exception as error:  # the next one may succeed
                logger.warning("run %s: %s is not copied: %s", self._run_id, checkpoint, error)
            next_s = time.monotonic() + self._every_s
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def _next(self, due_s: float) -> str | None:
        with self._changed:
            while not self._closed:
                wait_s = 0.0 if self._flushing else due_s - time.monotonic()
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
            manifest = Manifest.of(staged, omit=COPY_MANIFEST)
            _check_own_manifest(staged, checkpoint, manifest)
            manifest.write(staged / COPY_MANIFEST)
            name = PurePosixPath(checkpoint).name
            key = f"{WORK}/{self._run_id}/{self._workspace.attempt}/{name}"
            for path in [*(file.path for file in manifest.files), COPY_MANIFEST]:
                if self._closed:
                    return
                self._store.put_file(staged / path, f"{key}/{path}")
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        self._remove_older(_step_of(name))

    def _stage(self, checkpoint: str) -> Path | None:
        """Links to the files, because the trainer removes older checkpoints meanwhile.

        None once closed: the folder may have been removed and must not be created again.
        """
        folder = self._workspace.folder
        staged = folder / "checkpoint-copy.partial"
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

    def _remove_older(self, step: int) -> None:
        """Keep the last copies. Those of later attempts are left alone."""
        own = [
            copy
            for copy in _copies(self._store, self._run_id)
            if copy.attempt <= self._workspace.attempt and copy.step <= step
        ]
        for old in own[KEEP:]:
            self._store.delete_prefix(old.key)


@dataclass(frozen=True, order=True)
class _Copy:
    step: int
    attempt: int
    key: str


def fetch_newest(store: Store, run_id: str, workspace: Workspace) -> tuple[int | None, list[str]]:
    """Bring the newest intact copy into the workspace: its step, and why newer ones were skipped.

    Raises StoreUnavailable.
    """
    skipped = []
    for copy in _copies(store, run_id):
        try:
            _fetch(store, copy, workspace)
        except (FileNotFoundError, DamagedCopy) as error:
            skipped.append(f"the copy of step {copy.step} is damaged: {error}")
        else:
            return copy.step, skipped
    return None, skipped


def _copies(store: Store, run_id: str) -> list[_Copy]:
    """All complete copies, newest first."""
    found = []
    for key in store.keys(f"{WORK}/{run_id}"):
        place = PurePosixPath(key)
        if place.name == COPY_MANIFEST and len(place.parts) == 5:
            found.append(
                _Copy(_step_of(place.parts[3]), int(place.parts[2]), place.parent.as_posix())
            )
    return sorted(found, reverse=True)


def _step_of(name: str) -> int:
    """The step in the name of a checkpoint's folder, `step-00000120`."""
    return int(name.removeprefix("step-"))


def _fetch(store: Store, copy: _Copy, workspace: Workspace) -> None:
    partial = workspace.folder / "checkpoints.partial"
    shutil.rmtree(partial, ignore_errors=True)
    store.fetch(f"{copy.key}/{COPY_MANIFEST}", partial / COPY_MANIFEST)
    try:
        manifest = Manifest.read(partial / COPY_MANIFEST)
    except ValueError as error:
        raise DamagedCopy(f"its manifest is unreadable: {error}") from error
    for file in manifest.files:
        store.fetch(f"{copy.key}/{file.path}", partial / file.path)
    if (problem := next(manifest.problems(partial), None)) is not None:
        raise DamagedCopy(problem)
    for name in INHERITED_FILES:
        if (partial / name).exists():
            (partial / name).replace(workspace.folder / name)
    # In one rename: a trainer must never see some of the checkpoints only.
    (partial / workspace.checkpoints.name).rename(workspace.checkpoints)
    shutil.rmtree(partial)


def _check_own_manifest(staged: Path, checkpoint: str, manifest: Manifest) -> None:
    """Only intact checkpoints are copied; a checkpoint's own manifest names its other files."""
    try:
        own = Manifest.read(staged / checkpoint / MANIFEST)
    except ValueError as error:
        raise DamagedCopy(f"its manifest is unreadable: {error}") from error
    found = {file.path: file.sha256 for file in manifest.files}
    for file in own.files:
        if found.get(f"{checkpoint}/{file.path}") != file.sha256:
            raise DamagedCopy(f"{file.path} fails its checksum")
