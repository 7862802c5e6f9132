"""Restores a backup into an empty installation: checks all of it, then files, then rows.

Rows come last, in one transaction: after an interrupted restore an installation has no rows, and
the restore can be repeated.
"""

from dataclasses import dataclass
from pathlib import Path

import fsspec
from sqlalchemy import select

from app.backup.create import revision_of
from app.backup.manifest import (
    BackupError,
    BackupManifest,
    copy_hashed,
    read_manifest,
    verify,
)
from app.backup.progress import Progress
from app.backup.rows import digest_of, load_table, tables_of
from app.datasets.models import Dataset
from app.datasets.service import remove_files
from app.db import Database
from app.migrations import downgrade, revisions, upgrade
from app.runs.lifecycle import release
from app.runs.models import Run
from app.runs.states import ACTIVE, RunState
from app.settings import Settings
from app.storage import WORK, Store, remove_run_files
from kdcore.errors import is_disk_full
from kdcore.files import ManifestFile, size_and_sha256

MARK = "restore-unfinished"
"""In the data folder while a restore is in progress; names the backup."""


@dataclass(frozen=True)
class Contents:
    """What a restore would destroy in an installation."""

    runs: list[str]
    datasets: list[str]
    files: bool
    """Whether there are files that may belong to runs or datasets."""

    @property
    def is_empty(self) -> bool:
        return not (self.runs or self.datasets or self.files)


def check_backup(folder: Path, progress: Progress) -> BackupManifest:
    """Read all of a backup; raises BackupError that names the damaged and missing files."""
    manifest = read_manifest(folder)
    verify(folder, manifest, progress.phase("Checking the backup", manifest.size_bytes, "bytes"))
    return manifest


def contents_of(settings: Settings, manifest: BackupManifest) -> Contents:
    """What the installation has; files of an unfinished restore of this backup do not count."""
    runs: list[str] = []
    datasets: list[str] = []
    if revision_of(settings) is not None:
        database = Database(settings.resolved_database_url)
        try:
            with database.read() as session:
                runs = list(session.scalars(select(Run.id)))
                datasets = list(session.scalars(select(Dataset.id)))
        finally:
            database.close()
    mark = settings.data_dir / MARK
    if mark.exists() and mark.read_text().strip() == manifest.id:
        return Contents(runs, datasets, files=False)
    folders = (settings.uploads_dir, settings.work_dir)
    files = any(folder.is_dir() and any(folder.iterdir()) for folder in folders)
    return Contents(runs, datasets, files or not _is_empty_store(settings))


def _is_empty_store(settings: Settings) -> bool:
    files, root = fsspec.url_to_fs(settings.resolved_storage_url)
    try:
        return not files.ls(root, detail=False)
    except FileNotFoundError:
        return True


def restore_backup(
    settings: Settings, folder: Path, manifest: BackupManifest, found: Contents, progress: Progress
) -> list[str]:
    """Replace `found` by the backup; returns the runs that will resume.

    The backup must have been checked. No server and no worker of the installation may run.
    """
    if manifest.revision not in revisions():
        raise BackupError(
            f"the backup was made by Halflayer {manifest.halflayer}, whose schema "
            f"{manifest.revision} this version does not know: install that version, or a newer one"
        )
    mark = settings.data_dir / MARK
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    mark.write_text(manifest.id + "\n")
    try:
        if revision_of(settings) is not None:
            downgrade(settings.resolved_database_url, "base")
        _remove(settings, found)
        _restore_files(settings, folder, manifest, progress)
    except OSError as error:
        if is_disk_full(error):
            raise BackupError(f"no room to restore: {error}") from error
        raise BackupError(f"the restore failed: {error}") from error
    upgrade(settings.resolved_database_url, manifest.revision)
    database = Database(settings.resolved_database_url)
    try:
        _restore_rows(database, folder, manifest, progress)
        upgrade(settings.resolved_database_url)
        queued = _requeue(database)
    finally:
        database.close()
    mark.unlink()
    return queued


def _remove(settings: Settings, found: Contents) -> None:
    store = Store(settings)
    for run_id in found.runs:
        remove_run_files(settings, store, run_id)
    for dataset_id in found.datasets:
        remove_files(settings, store, dataset_id)


def _restore_files(
    settings: Settings, folder: Path, manifest: BackupManifest, progress: Progress
) -> None:
    """Copy every file to its place and read it back."""
    store = Store(settings)
    files = [file for file in manifest.files if not file.path.startswith("database/")]
    advance = progress.phase("Files", 2 * sum(file.size_bytes for file in files), "bytes")
    for file in files:
        target = _target(settings, store, file.path)
        if isinstance(target, Path):
            with open(folder / file.path, "rb") as source:
                copy_hashed(source, target, advance)
        else:
            store.put_file(folder / file.path, target)
            advance(file.size_bytes)
        with open(target, "rb") if isinstance(target, Path) else store.open(target) as source:
            _compare(file, size_and_sha256(source, advance))


def _target(settings: Settings, store: Store, path: str) -> Path | str:
    """Where a file of the backup belongs: a path in the data folder, or a key of the store."""
    kind, _, rest = path.partition("/")
    if kind == "artifacts":
        return rest
    if kind == "copies" and not store.is_local:
        return f"{WORK}/{rest}"
    if kind == "copies":
        # From hosts that share a store to hosts that share a folder.
        run_id, attempt, _, name = rest.split("/", 3)
        return settings.work_dir / run_id / f"attempt-{attempt}" / name
    if kind == "uploads" and not store.is_local:
        return path
    return settings.data_dir / path


def _compare(file: ManifestFile, found: tuple[int, str]) -> None:
    if found != (file.size_bytes, file.sha256):
        raise BackupError(f"{file.path} was damaged while it was copied: check the disk")


def _restore_rows(
    database: Database, folder: Path, manifest: BackupManifest, progress: Progress
) -> None:
    """Insert all rows, read them back, and commit only if they are the same."""
    saved = {table.name: table for table in manifest.tables}
    advance = progress.phase("Rows", 2 * sum(table.rows for table in manifest.tables), "rows")
    with database.engine.begin() as connection:
        tables = tables_of(connection, saved)
        missing = sorted(saved.keys() - {table.name for table in tables})
        if missing:
            raise BackupError(f"the schema {manifest.revision} has no table {', '.join(missing)}")
        for table in tables:
            load_table(connection, table, folder, saved[table.name], advance)
        for table in tables:
            wanted = saved[table.name]
            if digest_of(connection, table, wanted.columns, advance) != wanted.digest:
                raise BackupError(
                    f"the restored rows of {table.name} differ from the backup: no rows were "
                    "restored"
                )


def _requeue(database: Database) -> list[str]:
    """Queue the runs that had workers; those with a cancel request are cancelled."""
    with database.write() as session:
        active = select(Run).where(Run.state.in_(ACTIVE)).order_by(Run.created_at, Run.id)
        for run in session.scalars(active).all():
            release(session, run.id, run.attempt)
    with database.read() as session:
        return list(session.scalars(select(Run.id).where(Run.state == RunState.QUEUED)))
