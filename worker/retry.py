"""Waiting for a database or a store that is away, while the trainer goes on."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from kombu.utils.functional import retry_over_time
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from app.storage import StoreAway

logger = logging.getLogger(__name__)

DATABASE_AWAY = (OperationalError, InterfaceError, PoolTimeout)
AWAY = (*DATABASE_AWAY, StoreAway)

T = TypeVar("T")


class GaveUp(Exception):
    """The worker must leave and what it needs is still away; the sweeper will find the run."""


class Patience:
    """Repeats what failed for want of a database or a store; not for long once the worker shall
    leave."""

    def __init__(self, leave: threading.Event, grace_s: float) -> None:
        self._leave = leave
        self._grace_s = grace_s

    def __call__(self, work: Callable[[], T]) -> T:
        """`work()`, repeated until what it needs answers; raises GaveUp."""
        leave_since: list[float] = []

        def told(error: Exception, intervals: Any, _retries: int) -> float:
            wait_s = float(next(intervals))
            what = "store" if isinstance(error, StoreAway) else "database"
            logger.warning("the %s is away, again in %.0f s: %s", what, wait_s, error)
            return wait_s

        def may_go_on() -> None:
            if self._leave.is_set():
                leave_since.append(time.monotonic())
                if time.monotonic() - leave_since[0] > self._grace_s:
                    raise GaveUp

        result: T = retry_over_time(
            work,
            AWAY,
            errback=told,
            callback=may_go_on,
            interval_start=1,
            interval_step=1,
            interval_max=5,
        )
        return result
