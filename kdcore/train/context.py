"""Where a run works, whom it talks to, how it ends."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from kdcore.config import RunConfig
from kdcore.device import describe
from kdcore.distributed.process_group import ALONE, Ranks
from kdcore.events import Sink
from kdcore.train.export import Summary


@dataclass(frozen=True)
class Place:
    """Where a run works and whom it talks to."""

    out_dir: Path
    cache_dir: Path
    device: torch.device
    sink: Sink
    should_stop: Callable[[], bool]
    ranks: Ranks = ALONE
    submitted: RunConfig | None = None
    """The config as its author wrote it; None if it is the one that is carried out."""

    def describe(self) -> str:
        """The devices of all ranks, in words."""
        return " + ".join(self.ranks.tell(describe(self.device)))


@dataclass(frozen=True)
class Ended:
    """How a run ended: with a summary, or None if it was stopped (it resumes from `step`)."""

    summary: Summary | None
    step: int
