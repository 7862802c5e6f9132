"""Where a run works, whom it talks to, how it ends, and what its machine's errors are called."""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from kdcore.checkpoint import disk_full
from kdcore.errors import DeviceOutOfMemory, HostOutOfMemory
from kdcore.events import Sink
from kdcore.result import Summary


@dataclass(frozen=True)
class Place:
    """Where a run works and whom it talks to."""

    out_dir: Path
    cache_dir: Path
    device: torch.device
    sink: Sink
    should_stop: Callable[[], bool]


@dataclass(frozen=True)
class Ended:
    """How a run ended: with a summary, or None if it was stopped (it resumes from `step`)."""

    summary: Summary | None
    step: int


@contextmanager
def typed_failures(out_dir: Path) -> Iterator[None]:
    """Give errors of the machine their typed code and an advice."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise DeviceOutOfMemory(
            "the device has no memory left: lower schedule.batch_size and raise "
            f"schedule.accumulation_steps by the same factor. {error}"
        ) from error
    except MemoryError as error:
        raise HostOutOfMemory(
            "the machine has no memory left: lower schedule.batch_size"
        ) from error
    except RuntimeError as error:
        if "can't allocate memory" in str(error):
            raise HostOutOfMemory(
                "the machine has no memory left: lower schedule.batch_size and raise "
                f"schedule.accumulation_steps by the same factor. {error}"
            ) from error
        raise
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise disk_full(error, out_dir, 0) from error
        raise
