"""What a worker uses of its machine, measured on real processes."""

import os
import subprocess
import sys
import time

import psutil

from worker.devices import cpu
from worker.resource_usage import Meter, parse_nvidia_smi


def test_memory_and_processor_time_of_the_worker_and_its_children() -> None:
    meter = Meter(cpu(), every_s=60)
    meter.look()
    hold = "data = bytearray(64 << 20); print(1, flush=True)\nwhile True: pass"
    child = subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        spent_s = psutil.Process(child.pid).cpu_times().user
        while psutil.Process(child.pid).cpu_times().user < spent_s + 0.3:
            time.sleep(0.05)
        used = meter.look()
    finally:
        child.kill()
        child.communicate()
    own_bytes = psutil.Process(os.getpid()).memory_info().rss
    assert used["memory_bytes"] > own_bytes / 2 + (64 << 20)
    assert used["cpu_cores"] > 0
    # The child is gone, and with it the time that it took.
    assert meter.look()["cpu_cores"] >= 0


def test_what_the_driver_says() -> None:
    assert parse_nvidia_smi("87, 4213\n") == {
        "device_busy": 0.87,
        "device_memory_used_bytes": 4213 * 1024**2,
    }


def test_a_figure_that_the_driver_does_not_know_takes_no_other_with_it() -> None:
    assert parse_nvidia_smi("[N/A], 4213\n") == {"device_memory_used_bytes": 4213 * 1024**2}
    assert parse_nvidia_smi("87, [N/A]\n") == {"device_busy": 0.87}
    assert parse_nvidia_smi("[N/A], [Insufficient Permissions]\n") == {}
    # Of two GPUs, one figure would be half the truth.
    assert parse_nvidia_smi("80, 2\n[N/A], 3\n") == {"device_memory_used_bytes": 5 * 1024**2}
