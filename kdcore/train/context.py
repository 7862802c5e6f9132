"""Where a run works, whom it reports to, how it ends."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from kdcore.device import describe
from kdcore.distributed.process_group import SINGLE_PROCESS, Ranks
from kdcore.events import Sink
from kdcore.inputs import NO_INPUTS, Inputs
from kdcore.train.export import Summary


@dataclass(frozen=True)
class RunContext:
    """Where a run works and whom it reports to."""

    out_dir: Path
    cache_dir: Path
    device: torch.device
    sink: Sink
    should_stop: Callable[[], bool]
    ranks: Ranks = SINGLE_PROCESS
    inputs: Inputs = NO_INPUTS

    def describe(self) -> str:
        """The devices of all ranks."""
        return " + ".join(self.ranks.all_gather_json(describe(self.device)))


@dataclass(frozen=True)
class Completed:
    """The result is published."""

    summary: Summary


@dataclass(frozen=True)
class Stopped:
    """Stopped on request; the checkpoint of `step`, from which the run resumes, is saved."""

    step: int


RunOutcome = Completed | Stopped
