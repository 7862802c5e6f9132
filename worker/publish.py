"""Brings a result into the store: verified against its manifest first; writes no row."""

import json
import logging
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from app.runs.models import PublishedFile
from app.storage import BadKey, Store, checked_key
from kdcore.errors import DiskFull, KdcoreError, is_disk_full
from kdcore.files import sha256_of
from worker.workspace import Workspace

logger = logging.getLogger(__name__)

MAX_PATH_CHARS = 200


class DamagedResult(KdcoreError):
    """The result differs from its manifest."""


class _ManifestFile(BaseModel):
    path: str
    size_bytes: int
    sha256: str


class _Manifest(BaseModel):
    files: list[_ManifestFile]


def publish(workspace: Workspace, run_id: str, store: Store) -> list[PublishedFile]:
    """Verify the attempt's result and put it into the store; returns what the rows shall say.

    Raises DamagedResult or DiskFull; other errors of the store as they are.
    """
    files = _verified(workspace)
    published = []
    for file in files:
        key = f"{run_id}/{workspace.attempt}/{file.path}"
        try:
            store.put_file(workspace.model / file.path, key)
        except OSError as error:
            if not is_disk_full(error):
                raise
            # What is there of it would only be in the way of whoever makes room.
            withdraw(workspace, run_id, store)
            needed = sum(each.size_bytes for each in files)
            free = store.free_bytes()
            beside = "" if free is None else f", {free:,} are free"
            raise DiskFull(
                f"no room to publish the result: it needs {needed:,} bytes in the store{beside}. "
                "Free some space and submit the run again"
            ) from error
        published.append(PublishedFile(file.path, file.size_bytes, file.sha256, key))
    return published


def withdraw(workspace: Workspace, run_id: str, store: Store) -> None:
    """Remove what an attempt published that turned out to be stale."""
    try:
        store.delete_prefix(f"{run_id}/{workspace.attempt}")
    except OSError as error:
        logger.warning("run %s: stale files stay in the store: %s", run_id, error)


def _verified(workspace: Workspace) -> list[_ManifestFile]:
    try:
        raw: Any = json.loads(workspace.manifest.read_text(encoding="utf-8"))
        manifest = _Manifest.model_validate(raw)
    except (OSError, ValueError, ValidationError) as error:
        raise DamagedResult(f"the result has no readable manifest: {error}") from error
    if not manifest.files:
        raise DamagedResult("the result's manifest is empty")
    for file in manifest.files:
        _check(workspace.model, file)
    return manifest.files


def _check(model: Path, file: _ManifestFile) -> None:
    try:
        path = model / checked_key(file.path)
    except BadKey as error:
        raise DamagedResult(f"the manifest names a path outside the result: {error}") from error
    if len(file.path) > MAX_PATH_CHARS:
        raise DamagedResult(f"the manifest names a path that is too long: {file.path[:80]}...")
    if not path.is_file() or path.is_symlink():
        raise DamagedResult(f"{file.path} of the result is missing")
    if path.stat().st_size != file.size_bytes or sha256_of(path) != file.sha256:
        raise DamagedResult(f"{file.path} of the result differs from its manifest")
