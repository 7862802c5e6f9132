"""Where a run works, whom it talks to, how it ends."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from kdcore.config import RunConfig
from kdcore.device import describe
from kdcore.distributed.process_group import SINGLE_PROCESS, Ranks
from kdcore.events import Sink
from kdcore.train.export import Summary


@dataclass(frozen=True)
class RunContext:
    """Where a run works and whom it talks to."""

    out_dir: Path
    cache_dir: Path
    device: torch.device
    sink: Sink
    should_stop: Callable[[], bool]
    ranks: Ranks = SINGLE_PROCESS
    submitted: RunConfig | None = None
    """The config as its author wrote it; None if it is the one that is carried out."""

    def describe(self) -> str:
        """The devices of all ranks, in words."""
        return " + ".join(self.ranks.all_gather_json(describe(self.device)))


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended: with a summary, or None if it was stopped (it resumes from `step`)."""

    summary: Summary | None
    step: int
