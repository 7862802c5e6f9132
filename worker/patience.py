"""Waiting for a database that is away, while the trainer goes on."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from kombu.utils.functional import retry_over_time
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

logger = logging.getLogger(__name__)

DATABASE_AWAY = (OperationalError, InterfaceError, PoolTimeout)

T = TypeVar("T")


class GaveUp(Exception):
    """The worker must leave and the database is still away; the sweeper will find the run."""


class Patience:
    """Repeats what failed for want of a database; not for long once the worker shall leave."""

    def __init__(self, leave: threading.Event, grace_s: float) -> None:
        self._leave = leave
        self._grace_s = grace_s

    def __call__(self, work: Callable[[], T]) -> T:
        """`work()`, repeated until the database answers; raises GaveUp."""
        leave_since: list[float] = []

        def told(error: Exception, intervals: Any, _retries: int) -> float:
            wait_s = float(next(intervals))
            logger.warning("the database is away, again in %.0f s: %s", wait_s, error)
            return wait_s

        def may_go_on() -> None:
            if self._leave.is_set():
                leave_since.append(time.monotonic())
                if time.monotonic() - leave_since[0] > self._grace_s:
                    raise GaveUp

        result: T = retry_over_time(
            work,
            DATABASE_AWAY,
            errback=told,
            callback=may_go_on,
            interval_start=1,
            interval_step=1,
            interval_max=5,
        )
        return result
