"""Verifies a result against its manifest and uploads it to the store; writes no rows."""

import logging

from app.runs.models import PublishedFile
from app.storage import Store
from kdcore.errors import DiskFull, KdcoreError, is_disk_full
from kdcore.files import Manifest, ManifestFile
from worker.workspace import Workspace

logger = logging.getLogger(__name__)

MAX_PATH_CHARS = 200


class DamagedResult(KdcoreError):
    """The result differs from its manifest."""


def publish(workspace: Workspace, run_id: str, store: Store) -> list[PublishedFile]:
    """Verify the attempt's result and upload it; returns what the rows will contain.

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
            # An incomplete result only takes up space.
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
    """Remove what a stale attempt published."""
    try:
        store.delete_prefix(f"{run_id}/{workspace.attempt}")
    except OSError as error:
        logger.warning("run %s: stale files stay in the store: %s", run_id, error)


def _verified(workspace: Workspace) -> list[ManifestFile]:
    try:
        manifest = Manifest.read(workspace.manifest)
    except (OSError, ValueError) as error:
        raise DamagedResult(f"the result has no readable manifest: {error}") from error
    if not manifest.files:
        raise DamagedResult("the result's manifest is empty")
    for file in manifest.files:
        if len(file.path) > MAX_PATH_CHARS:
            raise DamagedResult(f"the manifest names a path that is too long: {file.path[:80]}...")
        if (workspace.model / file.path).is_symlink():
            raise DamagedResult(f"{file.path} of the result is a symbolic link")
    if (problem := next(manifest.problems(workspace.model), None)) is not None:
        raise DamagedResult(f"the result differs from its manifest: {problem}")
    return manifest.files
