"""One progress line with the time left, for work whose steps are of very unequal length."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class Steps:
    """Steps done and to come; a step is expected to take as long as its like did before."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task = bar.add_task("", total=None, eta="")
        self._took_s: dict[str, float] = {}
        self._waiting: Counter[str] = Counter()
        self._done = 0

    def expect(self, names: list[str]) -> None:
        """The steps to come."""
        self._waiting.update(names)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Holds while the step is worked on."""
        self._show(name)
        start_s = time.monotonic()
        yield
        self._took_s[name] = time.monotonic() - start_s
        self._done += 1
        self._waiting[name] = max(0, self._waiting[name] - 1)

    def _show(self, name: str) -> None:
        left = sum(self._waiting.values())
        eta_s = self._left_s()
        eta = "" if eta_s is None else f"about {int(eta_s) // 60}:{int(eta_s) % 60:02d} left"
        total = self._done + left if left else None
        self._bar.update(self._task, description=name, completed=self._done, total=total, eta=eta)

    def _left_s(self) -> float | None:
        if not self._took_s or not self._waiting:
            return None
        usual_s = sum(self._took_s.values()) / len(self._took_s)
        return sum(n * self._took_s.get(name, usual_s) for name, n in self._waiting.items())


@contextmanager
def progress_line() -> Iterator[Steps]:
    """A line on standard error; removed at the end."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[eta]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield Steps(bar)
