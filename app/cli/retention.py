"""`halflayer cleanup`: shows which files can be removed, asks, removes them; needs no server."""

from typing import Annotated

import typer

from app.cli.connect import DataDir, local_database, settings_of
from app.cli.terminal import console, removable_table, say, size_text


def cleanup(
    keep_last: Annotated[
        int | None, typer.Option(min=1, help="Keep the newest N results of each kind.")
    ] = None,
    older_than: Annotated[
        float | None,
        typer.Option(min=0, metavar="DAYS", help="Only runs that ended at least N days ago."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be removed.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Remove files of ended runs to free disk space; metrics, logs and the runs themselves stay.

    Without --keep-last or --older-than, only work folders of ended runs and files of interrupted
    uploads and workers are removed. Pinned runs, inputs of unfinished runs, and the newest result
    of each kind are always kept.
    """
    from app.retention.leftovers import leftovers, remove  # noqa: PLC0415
    from app.retention.service import Policy, plan, remove_files  # noqa: PLC0415
    from app.storage import Store  # noqa: PLC0415

    settings = settings_of(data_dir)
    policy = Policy(keep_last, older_than)
    with local_database(settings) as database:
        store = Store(settings)
        with database.read() as session:
            found = plan(session, settings, policy)
        left = leftovers(database, settings, store)
        mine = [each for each in left if each.known]
        for each in left:
            if not each.known:
                size = size_text(each.size_bytes)
                say(f"kept, not of a run or dataset in this database: {each.place} ({size})")
        if not found and not mine:
            console.print("Nothing to remove.")
            return
        if found:
            console.print(removable_table(found))
        for each in mine:
            size = size_text(each.size_bytes)
            say(f"left by an interrupted upload or worker: {each.place} ({size})")
        leftover_bytes = sum(each.size_bytes for each in mine)
        total = size_text(sum(each.size_bytes for each in found) + leftover_bytes)
        if dry_run:
            console.print(f"{total} would be removed.")
            return
        if not yes:
            typer.confirm(f"Remove {total}? This cannot be undone.", abort=True)
        named = {each.run_id for each in found}
        removed = remove_files(database, settings, store, policy, named)
        remove(store, mine)
        console.print(
            f"{size_text(sum(each.size_bytes for each in removed) + leftover_bytes)} removed."
        )
