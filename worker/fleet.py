"""Several GPUs: one worker process for each, started anew if it falls over."""

import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
from types import FrameType

from app.children import python_module
from worker.devices import Device

logger = logging.getLogger(__name__)

RESTART_S = 5.0
_PR_SET_PDEATHSIG = 1


def run_fleet(devices: list[Device]) -> int:
    """Keep one worker per device until told to leave; returns when all have left."""
    leave = threading.Event()

    def pass_on(_number: int, _frame: FrameType | None) -> None:
        leave.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    workers = {device.id: _start(device.id) for device in devices}
    while not leave.wait(RESTART_S):
        for device_id, worker in workers.items():
            if worker.poll() is not None:
                logger.warning("worker of %s left (%s): again", device_id, worker.returncode)
                workers[device_id] = _start(device_id)
    for worker in workers.values():
        worker.terminate()
    return max(worker.wait() for worker in workers.values())


def _start(device_id: str) -> subprocess.Popen[bytes]:
    # A session of its own, or Ctrl-C would reach it twice: from the terminal and from us.
    return subprocess.Popen(
        python_module("worker.main", "--device", device_id, "--leave-with-parent"),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )


def leave_with_parent() -> None:
    """Have the kernel send SIGTERM when the parent is gone (Linux)."""
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)
