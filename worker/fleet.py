"""Several GPUs: one worker process for each, restarted if it exits."""

import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from types import FrameType

from app.local.processes import python_module
from worker.devices import Device

EXIT_NO_DEVICE = 69
"""A worker's exit status when its device is missing, busy or broken."""
NO_DEVICE_S = 300.0
"""Time until a worker without a device is started again."""
RESTART_S = 5.0
_PR_SET_PDEATHSIG = 1

logger = logging.getLogger(__name__)


def run_fleet(devices: list[Device]) -> int:
    """Keep one worker per device running until a signal; returns when all have exited."""
    leave = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        leave.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    workers = {device: _start(device) for device in devices}
    again_s = dict.fromkeys(devices, 0.0)
    """Earliest restart of each, on the monotonic clock."""
    while not leave.wait(RESTART_S):
        for device, worker in workers.items():
            if worker.poll() is None:
                again_s[device] = 0.0
            elif worker.returncode == EXIT_NO_DEVICE and again_s[device] == 0.0:
                logger.error("%s cannot be used: retry in %.0f s", device.id, NO_DEVICE_S)
                again_s[device] = time.monotonic() + NO_DEVICE_S
            elif time.monotonic() >= again_s[device]:
                logger.warning(
                    "worker of %s exited with status %s: restarting", device.id, worker.returncode
                )
                workers[device], again_s[device] = _start(device), 0.0
    for worker in workers.values():
        worker.terminate()
    return max(worker.wait() for worker in workers.values())


def _start(device: Device) -> subprocess.Popen[bytes]:
    # By UUID: numbers change when a card falls off the bus.
    # In a session of its own, because Ctrl-C would otherwise signal it twice.
    name = device.uuid or device.id
    return subprocess.Popen(
        python_module("worker.main", "--device", name, "--exit-with-parent"),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )


def exit_with_parent() -> None:
    """Have the kernel send SIGTERM when the parent exits (Linux)."""
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)
