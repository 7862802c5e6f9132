"""`halflayer tidy`: shows which files may go, asks, and removes them; no server takes part."""

from typing import Annotated

import typer

from app.cli.connect import DataDir
from app.cli.terminal import console, removable_table, say, size_text
from app.db import Database
from app.private_files import keep_private
from app.retention.leftovers import leftovers, remove
from app.retention.service import Policy, plan
from app.retention.service import tidy as tidy_up
from app.settings import Settings
from app.storage import Store


def tidy(
    keep_last: Annotated[
        int | None, typer.Option(min=1, help="Keep the newest N results of each kind.")
    ] = None,
    older_than: Annotated[
        float | None, typer.Option(min=0, metavar="DAYS", help="Only what ended so long ago.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would go.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Remove files of ended runs to make room; curves, logs and the runs themselves stay.

    Without --keep-last or --older-than only what ended runs left in the work folder goes, and what
    uploads and workers left that were cut off. Pinned runs, inputs of runs that have not ended, and
    the newest result of each kind never go.
    """
    settings = Settings() if data_dir is None else Settings(data_dir=data_dir)
    keep_private(settings)
    policy = Policy(keep_last, older_than)
    database = Database(settings.resolved_database_url)
    try:
        store = Store(settings)
        with database.read() as session:
            found = plan(session, settings, policy)
        left = leftovers(database, settings, store)
        mine = [each for each in left if each.known]
        for each in left:
            if not each.known:
                size = size_text(each.size_bytes)
                say(f"left alone, of no run or dataset in this database: {each.place} ({size})")
        if not found and not mine:
            console.print("There is nothing to tidy up.")
            return
        if found:
            console.print(removable_table(found))
        for each in mine:
            size = size_text(each.size_bytes)
            say(f"left by an upload or a worker that was cut off: {each.place} ({size})")
        cut_off_bytes = sum(each.size_bytes for each in mine)
        total = size_text(sum(each.size_bytes for each in found) + cut_off_bytes)
        if dry_run:
            console.print(f"{total} would go.")
            return
        if not yes:
            typer.confirm(f"Remove {total}? It cannot be undone.", abort=True)
        named = {each.run_id for each in found}
        gone = tidy_up(database, settings, store, policy, named)
        remove(store, mine)
        removed = size_text(sum(each.size_bytes for each in gone) + cut_off_bytes)
        console.print(f"{removed} removed.")
    finally:
        database.close()
