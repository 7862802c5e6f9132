"""`halflayer backup` and `halflayer restore`: asks, calls, prints; no server takes part."""

from pathlib import Path
from typing import Annotated

import typer

from app.backup.create import create_backup, where
from app.backup.manifest import BackupError, BackupManifest
from app.backup.restore import Contents, check_backup, contents_of, restore_backup
from app.cli.connect import DataDir
from app.cli.terminal import WorkBars, console, size_text
from app.local.stack import only_one
from app.private_files import keep_private
from app.settings import Settings


def backup(
    destination: Annotated[
        Path, typer.Argument(help="Folder to make; it must not be there yet.", file_okay=False)
    ],
    data_dir: DataDir = None,
) -> None:
    """Save the database and all files to a folder, while runs go on."""
    settings = _settings(data_dir)
    keep_private(settings)
    with WorkBars() as bars:
        manifest = create_backup(settings, destination, bars)
    console.print(f"{_told(manifest)} saved in {destination}", soft_wrap=True, markup=False)
    _tell_left_out(manifest)
    if manifest.left_out:
        raise typer.Exit(1)


def restore(
    source: Annotated[
        Path, typer.Argument(help="Folder that `halflayer backup` made.", file_okay=False)
    ],
    check: Annotated[
        bool, typer.Option("--check", help="Only read the backup and say whether it is whole.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Destroy what the installation holds now; asks first.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --force: do not ask.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Bring a backup back into an empty installation; every file and row is checked."""
    settings = _settings(data_dir)
    with WorkBars() as bars:
        manifest = check_backup(source, bars)
    if check:
        console.print(f"{_told(manifest)}: whole", markup=False)
        _tell_left_out(manifest)
        return
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    keep_private(settings)
    with only_one(settings.data_dir):
        found = contents_of(settings, manifest)
        _make_sure(settings, found, force, yes)
        with WorkBars() as bars:
            queued = restore_backup(settings, source, manifest, found, bars)
    console.print(f"{_told(manifest)} restored, every file and row the same", markup=False)
    _tell_left_out(manifest)
    if queued:
        console.print(f"{len(queued)} runs are queued and go on when a worker is there")


def _settings(data_dir: Path | None) -> Settings:
    return Settings() if data_dir is None else Settings(data_dir=data_dir)


def _make_sure(settings: Settings, found: Contents, force: bool, yes: bool) -> None:
    if found.is_empty:
        return
    holds = f"{len(found.runs)} runs and {len(found.datasets)} datasets"
    place = f"{settings.data_dir.resolve()} with {where(settings)}"
    if not force:
        raise BackupError(
            f"{place} is not empty: it holds {holds}"
            + (" and files" if found.files else "")
            + ". Restore into a new data folder, or destroy what is there with --force"
        )
    if not yes:
        console.print(f"{place} holds {holds}. They will be gone for ever.", markup=False)
        console.print("The API and all workers must be stopped.")
        typer.confirm("Destroy them?", abort=True)


def _told(manifest: BackupManifest) -> str:
    rows = sum(table.rows for table in manifest.tables)
    return (
        f"{rows:,} rows and {len(manifest.files):,} files, {size_text(manifest.size_bytes)}, of "
        f"{manifest.created_at:%Y-%m-%d %H:%M} UTC"
    )


def _tell_left_out(manifest: BackupManifest) -> None:
    for each in manifest.left_out:
        console.print(f"not in the backup: {each.path}, {each.why}", style="yellow", markup=False)
