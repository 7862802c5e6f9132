"""What a worker and its trainer use of their machine; for display only."""

import logging
import os
import threading
import time
from contextlib import suppress
from statistics import fmean

import psutil
import pynvml

from worker.devices import Device

logger = logging.getLogger(__name__)

STALE_AFTER = 3
"""Intervals after which a measurement is no longer reported."""

Usage = dict[str, float]
"""`cpu_cores`, `memory_bytes`; of a GPU also `device_busy` (0 to 1), `device_memory_used_bytes`."""


class Meter:
    """Measures at intervals, in a thread of its own so that a hung driver stops no heartbeats."""

    def __init__(self, device: Device, every_s: float) -> None:
        self._device, self._every_s = device, every_s
        self._process = psutil.Process(os.getpid())
        self._cpu_s: dict[psutil.Process, float] = {}
        self._measured_s = time.monotonic()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="meter", daemon=True)
        self._latest: tuple[float, Usage] | None = None
        """When the last measurement began, and its result."""

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop measuring; does not wait for a driver that hangs."""
        self._end.set()

    @property
    def latest(self) -> Usage | None:
        """The last measurement; None if it failed or is old, as when a driver hangs."""
        if self._latest is None:
            return None
        measured_s, usage = self._latest
        return usage if time.monotonic() - measured_s <= STALE_AFTER * self._every_s else None

    def _run(self) -> None:
        self._try()  # processor time counts from here
        while not self._end.wait(self._every_s):
            self._latest = self._try()

    def _try(self) -> tuple[float, Usage] | None:
        try:
            return time.monotonic(), self.measure()
        except Exception:
            logger.exception("cannot measure the resource usage")
            return None

    def measure(self) -> Usage:
        """Present use; of processor time, since the last measurement."""
        cpu_s: dict[psutil.Process, float] = {}
        memory_bytes = 0
        for process in [self._process, *self._process.children(recursive=True)]:
            with suppress(psutil.Error):  # it has exited meanwhile
                times = process.cpu_times()
                memory_bytes += process.memory_info().rss
                cpu_s[process] = times.user + times.system
        now_s = time.monotonic()
        spent_s = sum(used_s - self._cpu_s.get(process, 0) for process, used_s in cpu_s.items())
        elapsed_s = max(now_s - self._measured_s, 1e-3)
        self._cpu_s, self._measured_s = cpu_s, now_s
        usage: Usage = {
            "cpu_cores": round(spent_s / elapsed_s, 3),
            "memory_bytes": memory_bytes,
        }
        return usage | _gpu(self._device)


def _gpu(device: Device) -> Usage:
    """Mean load and total memory use of the device's GPUs; empty without a driver."""
    if device.uuid is None:
        return {}
    usage: Usage = {}
    try:
        pynvml.nvmlInit()
        try:
            gpus = [pynvml.nvmlDeviceGetHandleByUUID(uuid) for uuid in device.uuid.split(",")]
            # The driver may know one figure without the other, as of a MIG instance.
            with suppress(pynvml.NVMLError):
                percents = [pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu for gpu in gpus]
                usage["device_busy"] = fmean(percents) / 100
            with suppress(pynvml.NVMLError):
                # Version 2, because version 1 counts memory that the driver reserves.
                memory = [pynvml.nvmlDeviceGetMemoryInfo(gpu, pynvml.nvmlMemory_v2) for gpu in gpus]
                usage["device_memory_used_bytes"] = sum(each.used for each in memory)
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        logger.debug("NVML: %s", error)
    return usage
