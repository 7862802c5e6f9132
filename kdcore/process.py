"""The trainer as a process: exit statuses, requests to stop, exiting with its parent."""

import os
import select
import signal
import threading
from types import FrameType

EXIT_RANK_LOST = 76
"""Another process of the run was lost: run the same command again to resume."""
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_DISK_FULL = 73
"""EX_CANTCREAT: the disk is so full that the events could not report the failure."""
EXIT_STOPPED = 75
"""EX_TEMPFAIL: run the same command again to resume."""


class StoppedEarly(BaseException):
    """Asked to stop before there was anything to save; libraries must not catch it as an error."""


class StopRequest:
    """Set by SIGTERM or Ctrl-C: the run saves a checkpoint and exits. A second Ctrl-C kills.

    Loading libraries and tokenising take long and have nothing to save: until the training first
    checks it, a signal raises StoppedEarly where one process trains alone.
    """

    def __init__(self, *, alone: bool) -> None:
        self._asked = threading.Event()
        self._awaited = not alone
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._asked.is_set() and number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        self._asked.set()
        if not self._awaited:
            raise StoppedEarly

    def __call__(self) -> bool:
        self._awaited = True
        return self._asked.is_set()


def exit_with_parent() -> None:
    """Exit at once when standard input is closed: the process at the other end has ended."""

    def watch() -> None:
        end = select.poll()
        end.register(0, 0)  # only the hang-up, which is always reported
        end.poll()
        os._exit(EXIT_FAILED)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
