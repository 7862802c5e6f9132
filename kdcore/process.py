"""A trainer as a process: its exit statuses, its requests to stop, its waiting for work."""

import os
import select
import signal
import threading
from types import FrameType

EXIT_RANK_LOST = 76
"""Another process of the run is gone: run the same command again to go on."""
EXIT_FAILED = 1


EXIT_USAGE = 2
EXIT_DISK_FULL = 73
"""EX_CANTCREAT: the events cannot tell of this failure, since they cannot grow."""
EXIT_STOPPED = 75
"""EX_TEMPFAIL: run the same command again to go on."""


class StoppedEarly(BaseException):
    """Asked to stop before there was anything to save; no library may take it for a failure."""


class StopRequest:
    """Set by SIGTERM or Ctrl-C: the run saves a checkpoint and leaves. A second Ctrl-C kills.

    Loading libraries and tokenising take long and save nothing that a signal could spoil: until
    the training first asks, it raises StoppedEarly where one process trains alone.
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


def die_with_parent() -> None:
    """Leave at once when standard input ends: whoever held the other end is gone."""

    def watch() -> None:
        end = select.poll()
        end.register(0, 0)  # nothing but the hang-up, which is always reported
        end.poll()
        os._exit(EXIT_FAILED)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
