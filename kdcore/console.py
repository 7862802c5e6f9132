"""Progress bars and messages of a run in a terminal."""

from typing import TYPE_CHECKING

from kdcore import events

if TYPE_CHECKING:
    from rich.progress import TaskID


class TerminalSink:
    """Draws a progress bar with ETA, and prints the run's messages."""

    def __init__(self) -> None:
        from rich.console import Console  # noqa: PLC0415 - the worker's trainers never draw
        from rich.progress import (  # noqa: PLC0415
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
        )

        self._console = Console(stderr=True)
        self._progress: Progress = Progress(
            TextColumn("{task.description:<12}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[eta]}"),
            TextColumn("{task.fields[note]}"),
            console=self._console,
        )
        self._tasks: dict[str, TaskID] = {}
        self._note = ""
        self._progress.start()

    def emit(self, event: events.Event) -> None:
        match event:
            case events.Progress():
                self._draw(event)
            case events.Metrics(step=step, values=values):
                losses = {k: v for k, v in values.items() if "loss" in k and v is not None}
                self._note = "  ".join(f"{name} {value:.4f}" for name, value in losses.items())
                if "eval/loss" in losses:
                    self._console.print(f"step {step}: {self._note}", highlight=False)
            case events.Log(message=message):
                self._console.print(message, highlight=False, markup=False)
            case events.RunFailed(message=message):
                self._console.print(f"failed: {message}", style="red", markup=False)

    def _draw(self, event: events.Progress) -> None:
        phase, eta_s = event.phase, event.eta_s
        eta = "" if eta_s is None else f"{int(eta_s) // 60}:{int(eta_s) % 60:02d} left"
        if phase not in self._tasks:
            self._tasks[phase] = self._progress.add_task(phase, eta="", note="")
        self._progress.update(
            self._tasks[phase],
            completed=event.done,
            total=event.total,
            eta=eta,
            note=self._note if phase == "training" else "",
        )

    def close(self) -> None:
        self._progress.stop()
