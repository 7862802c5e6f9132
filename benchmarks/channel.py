"""The contestant's end of its pipe: waits for requests without using the processor, and answers.

One JSON object a line each way. In: `{"step": 3, "count": false}`; the end of the pipe is the end
of the work. Out: `{"ready": true}` once, then one `Reply` an update.
"""

import json
import os
import sys
import time
from dataclasses import asdict, dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import flop_counter, peak_bytes, synchronize


@dataclass(frozen=True)
class Request:
    """One update that is asked for."""

    step: int
    count: bool = False
    """Count its FLOPs, which takes time of its own."""


@dataclass(frozen=True)
class Reply:
    """What one update took."""

    elapsed_s: float
    """From the request to the last parameter written."""
    idle_cpu_s: float
    """Processor time since the update before: what waiting cost."""
    waited_s: float
    flops: int | None
    peak_bytes: int
    """Most memory of the process so far."""
    tokens: int | None
    """Non-padding tokens, where the contestant counts them itself."""


class Channel:
    """Standard input and output, the latter taken away from whatever else would print there."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._requests = sys.stdin
        self._replies = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._counter: FlopCounterMode | None = None
        self._begin_s = 0.0
        self._idle_since = (time.perf_counter(), time.process_time())
        self._idle = (0.0, 0.0)

    def _send(self, answer: dict[str, object]) -> None:
        self._replies.write(json.dumps(answer) + "\n")
        self._replies.flush()

    def ready(self) -> None:
        """Say that updates may be asked for."""
        self._send({"ready": True})
        self._idle_since = (time.perf_counter(), time.process_time())

    def next(self) -> Request | None:
        """Wait for the next request; None at the end."""
        line = self._requests.readline()
        return Request(**json.loads(line)) if line else None

    def begin(self, request: Request) -> None:
        """The clock starts."""
        clock, cpu = self._idle_since
        self._idle = (time.perf_counter() - clock, time.process_time() - cpu)
        if request.count:
            self._counter = flop_counter()
            self._counter.__enter__()  # type: ignore[no-untyped-call]
        synchronize(self._device)
        self._begin_s = time.perf_counter()

    def end(self, tokens: int | None = None) -> None:
        """The clock stops; answers the request."""
        synchronize(self._device)
        elapsed_s = time.perf_counter() - self._begin_s
        flops = None
        if self._counter is not None:
            self._counter.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            flops, self._counter = self._counter.get_total_flops(), None
        waited_s, idle_cpu_s = self._idle
        peak = peak_bytes(self._device)
        self._send(asdict(Reply(elapsed_s, idle_cpu_s, waited_s, flops, peak, tokens)))
        self._idle_since = (time.perf_counter(), time.process_time())
