"""`halflayer backup` and `halflayer restore`; they need no server."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.connect import DataDir, settings_of
from app.cli.terminal import PhaseBars, console, size_text
from app.private_files import keep_private
from app.settings import Settings

if TYPE_CHECKING:
    from app.backup.manifest import BackupManifest
    from app.backup.restore import Contents


def backup(
    destination: Annotated[
        Path, typer.Argument(help="Folder to create; it must not exist yet.", file_okay=False)
    ],
    data_dir: DataDir = None,
) -> None:
    """Save the database and all files to a folder; runs continue meanwhile."""
    from app.backup.create import create_backup  # noqa: PLC0415

    settings = settings_of(data_dir)
    keep_private(settings)
    with PhaseBars() as bars:
        manifest = create_backup(settings, destination, bars)
    console.print(f"{_summary(manifest)} saved in {destination}", soft_wrap=True, markup=False)
    _print_left_out(manifest)
    if manifest.left_out:
        raise typer.Exit(1)


def restore(
    source: Annotated[
        Path, typer.Argument(help="Folder that `halflayer backup` made.", file_okay=False)
    ],
    check: Annotated[
        bool, typer.Option("--check", help="Verify the backup without restoring it.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Delete the current content of the installation first; asks."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --force: do not ask.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Restore a backup into an empty installation; every file and row is verified."""
    from app.backup.restore import check_backup, contents_of, restore_backup  # noqa: PLC0415
    from app.local.stack import only_one  # noqa: PLC0415

    settings = settings_of(data_dir)
    with PhaseBars() as bars:
        manifest = check_backup(source, bars)
    if check:
        console.print(f"{_summary(manifest)}: complete", markup=False)
        _print_left_out(manifest)
        return
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    keep_private(settings)
    with only_one(settings.data_dir):
        found = contents_of(settings, manifest)
        _confirm(settings, found, force, yes)
        with PhaseBars() as bars:
            queued = restore_backup(settings, source, manifest, found, bars)
    console.print(f"{_summary(manifest)} restored, every file and row verified", markup=False)
    _print_left_out(manifest)
    if queued:
        console.print(f"{len(queued)} runs are queued and continue once a worker runs")


def _confirm(settings: Settings, found: "Contents", force: bool, yes: bool) -> None:
    from app.backup.create import where  # noqa: PLC0415
    from app.backup.manifest import BackupError  # noqa: PLC0415

    if found.is_empty:
        return
    holds = f"{len(found.runs)} runs and {len(found.datasets)} datasets"
    place = f"{settings.data_dir.resolve()} with {where(settings)}"
    if not force:
        raise BackupError(
            f"{place} is not empty: it contains {holds}"
            + (" and files" if found.files else "")
            + ". Restore into a new data folder, or delete the current content with --force"
        )
    if not yes:
        console.print(f"{place} contains {holds}. They will be deleted permanently.", markup=False)
        console.print("The API and all workers must be stopped.")
        typer.confirm("Delete them?", abort=True)


def _summary(manifest: "BackupManifest") -> str:
    rows = sum(table.rows for table in manifest.tables)
    return (
        f"{rows:,} rows and {len(manifest.files):,} files, {size_text(manifest.size_bytes)}, of "
        f"{manifest.created_at:%Y-%m-%d %H:%M} UTC"
    )


def _print_left_out(manifest: "BackupManifest") -> None:
    for each in manifest.left_out:
        console.print(f"not in the backup: {each.path}, {each.why}", style="yellow", markup=False)
