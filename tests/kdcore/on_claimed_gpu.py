"""Carries out runs on a pretended GPU, and says what that was like.

python -m tests.kdcore.on_claimed_gpu LIBRARY JOBS, where JOBS is JSON: a list of objects with
`config`, `folder`, and what `Job` has besides. The answer is JSON, a line for each.
"""

import ctypes
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # before torch looks for a GPU
    gpu = ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL)

import torch

if __name__ == "__main__":
    gpu.set_guard()

import kdcore.device
import kdcore.train.loop
from kdcore.config import RUN_CONFIG
from kdcore.events import ListSink, Metrics
from kdcore.run import execute
from tests.fixtures.claimed_gpu import tensors


class Sink(ListSink):
    """Asks for a stop after so many steps."""

    def __init__(self, stop_after: int | None) -> None:
        super().__init__()
        self._stop_after = stop_after

    def should_stop(self) -> bool:
        done = max((event.step for event in self.of_type(Metrics)), default=0)
        return self._stop_after is not None and done >= self._stop_after


def carry_out(
    config: Any,
    folder: str,
    stop_after: int | None = None,
    max_tokens_per_microbatch: int | None = None,
) -> dict[str, Any]:
    """One run; `waits` are those of its last step."""
    tensors.operations.clear()
    kdcore.device._TOKENS_AT_ONCE["cuda"] = max_tokens_per_microbatch or 1 << 15
    sink = Sink(stop_after)
    execute(
        RUN_CONFIG.validate_python(config),
        Path(folder),
        sink,
        should_stop=sink.should_stop,
        cache_dir=Path(folder).parent / "cache",
    )
    return {
        "waits": waits,
        "operations": sorted(tensors.operations),
        "events": [event.model_dump_json() for event in sink.events],
        "deterministic": torch.get_deterministic_debug_mode(),
    }


waits: Counter[str] = Counter()
plain_step = kdcore.train.loop.train_step


def counted_step(*arguments: Any) -> Any:
    tensors.waits.clear()
    result = plain_step(*arguments)
    waits.clear()
    waits.update(tensors.waits)
    return result


if __name__ == "__main__":
    kdcore.train.loop.train_step = counted_step
    with tensors.pretended_gpu():
        for job in json.loads(sys.argv[2]):
            print(json.dumps(carry_out(**job)), flush=True)
