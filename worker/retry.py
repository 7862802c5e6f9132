"""Retries while the database or the store is unavailable; training continues meanwhile."""

import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_before_delay,
    stop_when_event_set,
    wait_incrementing,
)

from app.storage import StoreUnavailable

logger = logging.getLogger(__name__)

DATABASE_UNAVAILABLE = (OperationalError, InterfaceError, PoolTimeout)
UNAVAILABLE = (*DATABASE_UNAVAILABLE, StoreUnavailable)

T = TypeVar("T")


class RetryAborted(Exception):
    """The worker is stopping and a service is still unavailable; the sweeper will find the run."""


class RetryWhileUnavailable:
    """Retries work until the services answer; for `grace_s` at most once the worker is stopping."""

    def __init__(self, leave: threading.Event, grace_s: float) -> None:
        self._retry = Retrying(
            retry=retry_if_exception_type(UNAVAILABLE),
            wait=wait_incrementing(start=1, increment=1, max=5),
            stop=stop_when_event_set(leave),
            sleep=sleep_using_event(leave),
            before_sleep=_log,
        )
        self._last_retry = self._retry.copy(
            stop=stop_before_delay(grace_s), sleep=time.sleep, retry_error_callback=_abort
        )

    def __call__(self, work: Callable[[], T]) -> T:
        """`work()`, repeated while it fails for lack of a service; raises RetryAborted."""
        stopping = self._retry.copy(retry_error_callback=lambda _: self._last_retry(work))
        return stopping(work)


def _abort(state: RetryCallState) -> None:
    raise RetryAborted from (state.outcome.exception() if state.outcome else None)


def _log(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    what = "store" if isinstance(error, StoreUnavailable) else "database"
    logger.warning("the %s is unavailable, retry in %.0f s: %s", what, state.upcoming_sleep, error)
