"""What a training sums up while it runs: losses, tokens, time."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kdcore.config import Reporting
from kdcore.events import Progress, progress_eta_s

PROGRESS_EVERY_S = 1.0
CHECKPOINT_SHARE = 0.01
"""Of a run's time; if saving takes long, checkpoints are fewer than configured."""


@dataclass
class RunningTotals:
    """Running sums on the device; read only when something is logged or saved."""

    since_log: dict[str, Tensor] = field(default_factory=dict)
    since_start: dict[str, Tensor] = field(default_factory=dict)
    last: dict[str, Tensor] = field(default_factory=dict)
    logged_step: int = 0
    tokens: int = 0
    trained_s: float = 0.0

    def add(self, values: dict[str, Tensor]) -> None:
        self.last = values
        for sums in (self.since_log, self.since_start):
            for name, value in values.items():
                sums[name] = sums[name] + value if name in sums else value.clone()

    def as_state(self) -> dict[str, Any]:
        """JSON of the sums; Python writes a float so that it reads back bit for bit."""
        return {
            "since_log": {name: value.item() for name, value in self.since_log.items()},
            "since_start": {name: value.item() for name, value in self.since_start.items()},
            "last": {name: value.item() for name, value in self.last.items()},
            "logged_step": self.logged_step,
            "tokens": self.tokens,
            "trained_s": self.trained_s,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], device: torch.device) -> "RunningTotals":
        def tensors(values: dict[str, float]) -> dict[str, Tensor]:
            return {
                name: torch.tensor(value, dtype=torch.float64, device=device)
                for name, value in values.items()
            }

        return cls(
            since_log=tensors(state["since_log"]),
            since_start=tensors(state["since_start"]),
            last=tensors(state["last"]),
            logged_step=state["logged_step"],
            tokens=state["tokens"],
            trained_s=state["trained_s"],
        )


class TrainingTimer:
    """Wall time of one `fit`: what is due, and the ETA."""

    def __init__(
        self,
        first_step: int,
        total_steps: int,
        trained_before_s: float,
        reporting: Reporting,
        tokens_before: int = 0,
    ) -> None:
        now = time.monotonic()
        self._first, self._total, self._before_s = first_step, total_steps, trained_before_s
        self._reporting = reporting
        self._start = self._last_progress = self._last_checkpoint = now
        self._paused_s, self._save_s, self._logged_s = 0.0, 0.0, trained_before_s
        self._logged_tokens = tokens_before

    def trained_s(self) -> float:
        """Seconds spent on training steps, those of earlier attempts included."""
        return self._before_s + time.monotonic() - self._start - self._paused_s

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Around what does not count as training: an evaluation, a checkpoint."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._paused_s += time.monotonic() - start

    def progress_due(self, done: int) -> bool:
        return done in (self._first + 1, self._total) or (
            time.monotonic() - self._last_progress >= PROGRESS_EVERY_S
        )

    def progress(self, done: int) -> Progress:
        self._last_progress = time.monotonic()
        eta_s = progress_eta_s(
            done - self._first, self._total - self._first, self._last_progress - self._start
        )
        return Progress(phase="training", done=done, total=self._total, unit="steps", eta_s=eta_s)

    def checkpoint_due(self) -> bool:
        every_s = self._reporting.checkpoint_every_s
        if every_s:
            every_s = max(every_s, self._save_s / CHECKPOINT_SHARE)
        return time.monotonic() - self._last_checkpoint >= every_s

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Around the saving of a checkpoint; the interval to the next one starts at its end."""
        start = time.monotonic()
        with self.paused():
            yield
        self._last_checkpoint = time.monotonic()
        self._save_s = self._last_checkpoint - start

    def tokens_per_s(self, tokens: int) -> float:
        """Throughput since the last call, or since this process began to train.

        Always a number: a resumed run must have the same points as one that was never stopped.
        """
        trained_s = self.trained_s()
        new_tokens, self._logged_tokens = tokens - self._logged_tokens, tokens
        elapsed_s, self._logged_s = trained_s - self._logged_s, trained_s
        return new_tokens / max(elapsed_s, 1e-9)
