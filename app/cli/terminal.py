"""Terminal output of commands: tables, progress bars, messages; fetches nothing."""

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from app.backup.progress import Advance
from kdcore.figures import result_rows

if TYPE_CHECKING:
    from app.retention.service import Removable

Json = dict[str, Any]

console = Console()
errors = Console(stderr=True)
STATE_STYLES = {
    "succeeded": "green",
    "failed": "red",
    "cancelled": "yellow",
    "skipped": "yellow",
    "running": "cyan",
    "cancelling": "yellow",
}


def say(message: str, where: Console = console, style: str | None = None) -> None:
    """Print a message without wrapping, so that links can be clicked, copied and parsed.

    A closed pipe or terminal is ignored, so that a server continues, and stops its children.
    """
    with suppress(OSError, SystemExit):  # rich exits on a broken pipe
        where.print(message, style=style, markup=False, highlight=False, soft_wrap=True)


def duration(seconds: float | None) -> str:
    """Seconds as `1:05` or `2:03:05`; a dash while unknown."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def state_text(state: str) -> Text:
    """A state in its colour."""
    return Text(state, style=STATE_STYLES.get(state, ""))


def age(moment: str | None) -> str:
    """Time since an ISO timestamp of the server."""
    if not moment:
        return "-"
    return duration((datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds())


class EtaColumn(ProgressColumn):
    """The time left as estimated by the run itself."""

    def render(self, task: Task) -> Text:
        """The cell of one task."""
        if task.finished:
            return Text(duration(task.finished_time), style="dim")
        eta_s = task.fields.get("eta_s")
        return Text(f"{duration(eta_s)} left" if eta_s is not None else "", style="cyan")


class RunBars(Progress):
    """A progress bar for each of several runs."""

    def __init__(self) -> None:
        super().__init__(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[note]}", style="dim"),
            EtaColumn(),
            console=console,
        )
        self._ids: dict[str, TaskID] = {}

    def show(self, run: Json, label: str | None = None) -> None:
        """Update the bar of a run."""
        # Names are plain text, not markup.
        name = Text(label or run["name"]).markup
        if run["id"] not in self._ids:
            self._ids[run["id"]] = self.add_task(name, total=None, start=False, note="", eta_s=None)
        task = self._ids[run["id"]]
        state = run["state"]
        at = run["progress"]
        if state in STATE_STYLES and state not in ("running", "cancelling"):
            self.update(task, total=1, completed=1, note=state, eta_s=0)
            self.stop_task(task)
        elif state == "running":
            self._show_progress(task, at)
        else:
            self.update(task, note=state)

    def _show_progress(self, task: TaskID, at: Json | None) -> None:
        self.start_task(task)
        if at is None:
            self.update(task, note="starting")
            return
        note = str(at["phase"])
        if at["total"]:
            note += f" {at['done']:,.0f}/{at['total']:,.0f} {at['unit'] or ''}".rstrip()
        self.update(task, total=at["total"], completed=at["done"], note=note, eta_s=at["eta_s"])


class PhaseBars(Progress):
    """A progress bar with the time left for each phase of a long operation."""

    def __init__(self) -> None:
        super().__init__(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[unit]}", style="dim"),
            TaskProgressColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=errors,
        )

    def phase(self, what: str, total: int, unit: str) -> Advance:
        """Begin a phase with a new bar."""
        amount = size_text(total) if unit == "bytes" else f"{total:,} {unit}"
        task = self.add_task(what, total=total, unit=amount)
        return lambda done: self.advance(task, done)


def size_text(size_bytes: int) -> str:
    """A human-readable size, such as `1.5 GiB`."""
    size = size_bytes / 1024
    if size < 1:
        return f"{size_bytes} B"
    for unit in ("KiB", "MiB"):
        if size < 1024:
            return f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} GiB"


def runs_table(runs: list[Json]) -> Table:
    """Runs, one per line."""
    table = Table(box=None, pad_edge=False)
    for heading in ("ID", "Kind", "State", "Progress", "Age", "Name"):
        table.add_column(heading)
    for run in runs:
        at = run["progress"] if run["state"] == "running" else None
        share = f"{at['done'] / at['total']:.0%} {at['phase']}" if at and at["total"] else ""
        table.add_row(
            run["id"], run["kind"], state_text(run["state"]), share, age(run["created_at"]),
            Text(run["name"]),
        )  # fmt: skip
    return table


def removable_table(files: Sequence["Removable"]) -> Table:
    """Removable files, one run per line."""
    table = Table(box=None, pad_edge=False)
    for heading in ("Run", "Kind", "State", "Files", "Ended", "Name"):
        table.add_column(heading)
    table.add_column("Size", justify="right")
    for each in files:
        ended = f"{each.finished_at:%Y-%m-%d}" if each.finished_at else "-"
        table.add_row(
            each.run_id, each.kind, state_text(each.state), each.what, ended, Text(each.name),
            size_text(each.size_bytes),
        )  # fmt: skip
    return table


def tokens_table(tokens: list[Json]) -> Table:
    """Tokens, one per line."""
    table = Table(box=None, pad_edge=False)
    for heading in ("ID", "Kind", "Scope", "Age", "Last used", "Expires", "Name"):
        table.add_column(heading)
    for token in tokens:
        used = f"{age(token['last_used_at'])} ago" if token["last_used_at"] else "never"
        expires = (token["expires_at"] or "never")[:16].replace("T", " ")
        table.add_row(
            token["id"], token["kind"], token["scope"], age(token["created_at"]), used, expires,
            Text(token["name"]),
        )  # fmt: skip
    return table


def result_table(run: Json) -> Table:
    """The figures of a finished run."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for label, text in result_rows(run["result"] or {}):
        table.add_row(Text(label, style="dim"), Text(text))
    return table
