"""What this worker and its trainer use of their machine; for people to read, decides nothing."""

import logging
import os
import shutil
import subprocess
import threading
import time
from contextlib import suppress
from statistics import fmean

import psutil

from worker.devices import Device

logger = logging.getLogger(__name__)

NVIDIA_SMI_S = 10.0
Usage = dict[str, float]
"""`cpu_cores`, `memory_bytes`; of a GPU also `device_busy` (0 to 1), `device_memory_used_bytes`."""


class Meter:
    """Looks at intervals, in a thread of its own: a driver that hangs must not stop the heart."""

    def __init__(self, device: Device, every_s: float) -> None:
        self._device, self._every_s = device, every_s
        self._process = psutil.Process(os.getpid())
        self._cpu_s: dict[psutil.Process, float] = {}
        self._looked_s = time.monotonic()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="meter", daemon=True)
        self.latest: Usage | None = None

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more; does not wait for a look that hangs."""
        self._end.set()

    def _run(self) -> None:
        self.look()
        while not self._end.wait(self._every_s):
            self.latest = self.look()

    def look(self) -> Usage:
        """What is used now; of processor time, since the look before."""
        cpu_s: dict[psutil.Process, float] = {}
        memory_bytes = 0
        for process in [self._process, *self._process.children(recursive=True)]:
            with suppress(psutil.Error):  # it has left meanwhile
                times = process.cpu_times()
                memory_bytes += process.memory_info().rss
                cpu_s[process] = times.user + times.system
        now_s = time.monotonic()
        spent_s = sum(used_s - self._cpu_s.get(process, 0) for process, used_s in cpu_s.items())
        elapsed_s = max(now_s - self._looked_s, 1e-3)
        self._cpu_s, self._looked_s = cpu_s, now_s
        usage: Usage = {
            "cpu_cores": round(spent_s / elapsed_s, 3),
            "memory_bytes": memory_bytes,
        }
        return usage | _gpu(self._device)


def _gpu(device: Device) -> Usage:
    command = shutil.which("nvidia-smi")
    if command is None or device.uuid is None:
        return {}
    query = ["--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(
            [command, "-i", device.uuid, *query],
            capture_output=True,
            text=True,
            timeout=NVIDIA_SMI_S,
            check=True,
        )
        return parse_nvidia_smi(answer.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        logger.debug("nvidia-smi: %s", error)
        return {}


def parse_nvidia_smi(answer: str) -> Usage:
    """`87, 4213` (percent, MiB), a line for each GPU: their mean and their sum.

    A figure that the driver does not know of each (`[N/A]`, as the load of a MIG instance) is left
    out. Raises ValueError where the lines are no such pairs.
    """
    rows = [line.split(",") for line in answer.strip().splitlines()]
    busy, used_mib = (_numbers(column) for column in zip(*rows, strict=True))
    usage: Usage = {}
    if busy is not None:
        usage["device_busy"] = fmean(busy) / 100
    if used_mib is not None:
        usage["device_memory_used_bytes"] = sum(used_mib) * 1024**2
    return usage


def _numbers(column: tuple[str, ...]) -> list[float] | None:
    try:
        return [float(field) for field in column]
    except ValueError:
        return None
