"""Makes a backup of a running installation: what runs resume from, all rows, their files.

The rows are a consistent snapshot. Their files are copied after it; one that was deleted in between
is listed as left out.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout
from sqlalchemy import Connection, select
from sqlalchemy.engine import make_url

from app.backup.manifest import (
    FORMAT,
    BackupError,
    BackupManifest,
    LeftOut,
    SavedTable,
    copy_hashed,
    write_manifest,
)
from app.backup.progress import Progress
from app.backup.rows import count_rows, save_table, tables_of
from app.backup.work import remove_pins, save_copy, save_work
from app.datasets.models import Dataset
from app.datasets.service import dataset_path
from app.db import Database, new_id, utc_now
from app.migrations import current_revision
from app.runs.models import Artifact, Run
from app.runs.states import FINAL
from app.settings import Settings
from app.storage import Store
from app.tables import METADATA
from kdcore import __version__
from kdcore.errors import is_disk_full
from kdcore.files import ManifestFile, sync_folder


@dataclass
class _Snapshot:
    """What the rows say."""

    tables: list[SavedTable] = field(default_factory=list)
    files: list[ManifestFile] = field(default_factory=list)
    wanted: list[ManifestFile] = field(default_factory=list)
    unfinished: set[str] = field(default_factory=set)


def create_backup(settings: Settings, destination: Path, progress: Progress) -> BackupManifest:
    """Make the folder `destination`; it appears complete or not at all. Raises BackupError."""
    if destination.exists():
        raise BackupError(f"{destination} already exists: choose a new folder")
    revision = revision_of(settings)
    if revision is None:
        raise BackupError(f"there is nothing to save: {where(settings)} has no tables")
    with _only_one(settings), _appearing(destination) as folder:
        database = Database(settings.resolved_database_url)
        try:
            work = _save_work(settings, database, folder, progress)
            with database.snapshot() as connection:
                snapshot = _save_rows(connection, settings, folder, progress)
        finally:
            database.close()
        saved, left_out = _save_files(settings, snapshot.wanted, folder, progress)
        manifest = BackupManifest(
            format=FORMAT,
            id=new_id(),
            halflayer=__version__,
            revision=revision,
            created_at=utc_now(),
            tables=snapshot.tables,
            files=snapshot.files + _of_unfinished(work, snapshot.unfinished, folder) + saved,
            left_out=left_out,
        )
        write_manifest(folder, manifest)
    return manifest


def revision_of(settings: Settings) -> str | None:
    """The revision of the installation's database; None if there are no tables."""
    url = make_url(settings.resolved_database_url)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
        return None  # connecting would create it
    return current_revision(settings.resolved_database_url)


def where(settings: Settings) -> str:
    """The database's URL, without its password."""
    return make_url(settings.resolved_database_url).render_as_string(hide_password=True)


@contextmanager
def _only_one(settings: Settings) -> Iterator[None]:
    """One backup at a time; removes what a killed one left behind."""
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with FileLock(settings.data_dir / "backup.lock", blocking=False):
            remove_pins(settings)
            yield
    except Timeout:
        raise BackupError("another backup of this installation is being made") from None


@contextmanager
def _appearing(destination: Path) -> Iterator[Path]:
    """A folder that takes its name at the end of the block, and is removed on an error."""
    parent = destination.absolute().parent
    folder = parent / f".{destination.name}.{new_id()}.partial"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        # Uploads and models are for this user only.
        folder.mkdir(mode=0o700)
        yield folder
        folder.rename(destination)
        sync_folder(parent)
    except OSError as error:
        if is_disk_full(error):
            raise BackupError(f"no room for the backup in {parent}: {error}") from error
        raise BackupError(f"the backup failed: {error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _save_work(
    settings: Settings, database: Database, folder: Path, progress: Progress
) -> list[ManifestFile]:
    with database.read() as session:
        unfinished = session.scalars(
            select(Run.id).where(Run.state.not_in(FINAL)).order_by(Run.created_at)
        ).all()
    advance = progress.phase("Checkpoints of unfinished runs", len(unfinished), "runs")
    store = Store(settings)
    saved = []
    for run_id in unfinished:
        if store.is_local:
            saved += save_work(settings, run_id, folder)
        else:
            saved += save_copy(store, run_id, folder)
        advance(1)
    return saved


def _of_unfinished(
    work: list[ManifestFile], unfinished: set[str], folder: Path
) -> list[ManifestFile]:
    """The saved files of runs that are unfinished in the snapshot; the others are removed."""
    kept = []
    for file in work:
        run_id = file.path.split("/")[1]
        if run_id in unfinished:
            kept.append(file)
        else:
            (folder / file.path).unlink()
    return kept


def _save_rows(
    connection: Connection, settings: Settings, folder: Path, progress: Progress
) -> _Snapshot:
    tables = tables_of(connection, METADATA.tables)
    advance = progress.phase("Rows", count_rows(connection, tables), "rows")
    snapshot = _Snapshot()
    for table in tables:
        saved, file = save_table(connection, table, folder, advance)
        snapshot.tables.append(saved)
        snapshot.files.append(file)
    runs = select(Run.id).where(Run.state.not_in(FINAL))
    snapshot.unfinished = set(connection.scalars(runs))
    uploads = select(Dataset.id, Dataset.format, Dataset.size_bytes, Dataset.sha256)
    for dataset_id, format_, size_bytes, sha256 in connection.execute(uploads):
        upload = dataset_path(settings, Dataset(id=dataset_id, format=format_))
        path = f"uploads/{upload.relative_to(settings.uploads_dir).as_posix()}"
        snapshot.wanted.append(ManifestFile(path=path, size_bytes=size_bytes, sha256=sha256))
    artifacts = select(Artifact.storage_key, Artifact.size_bytes, Artifact.sha256)
    for key, size_bytes, sha256 in connection.execute(artifacts):
        snapshot.wanted.append(
            ManifestFile(path=f"artifacts/{key}", size_bytes=size_bytes, sha256=sha256)
        )
    return snapshot


def _save_files(
    settings: Settings, wanted: list[ManifestFile], folder: Path, progress: Progress
) -> tuple[list[ManifestFile], list[LeftOut]]:
    needed = sum(each.size_bytes for each in wanted)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise BackupError(
            f"no room for the backup: its files need {needed:,} bytes, {free:,} are free in "
            f"{folder.parent}"
        )
    advance = progress.phase("Files", needed, "bytes")
    store = Store(settings)
    saved, left_out = [], []
    for each in wanted:
        try:
            with _open(settings, store, each.path) as source:
                size_bytes, sha256 = copy_hashed(source, folder / each.path, advance)
        except FileNotFoundError:
            left_out.append(LeftOut(path=each.path, why="it does not exist"))
            continue
        if sha256 != each.sha256:
            # Saved, it would pass every later check of the backup.
            (folder / each.path).unlink()
            left_out.append(
                LeftOut(path=each.path, why="it is damaged: its SHA-256 differs from its row")
            )
            continue
        saved.append(ManifestFile(path=each.path, size_bytes=size_bytes, sha256=sha256))
    return saved, left_out


def _open(settings: Settings, store: Store, path: str) -> IO[bytes]:
    kind, _, rest = path.partition("/")
    if kind == "artifacts":
        return store.open(rest)
    try:
        return open(settings.uploads_dir / rest, "rb")
    except FileNotFoundError:
        # Where hosts share no data folder, uploads are in the store under this key.
        return store.open(path)
