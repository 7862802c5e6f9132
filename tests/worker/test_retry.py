"""Retries go on while a service is unavailable, but not for long once the worker is stopping."""

import logging
import threading
import time

import pytest
from tenacity import Future, RetryError

from app.storage import StoreUnavailable
from worker.retry import RetryAborted, RetryWhileUnavailable


def unavailable() -> None:
    raise StoreUnavailable("connection refused")


def test_work_is_repeated_until_the_service_answers(caplog: pytest.LogCaptureFixture) -> None:
    failures = [StoreUnavailable("refused"), StoreUnavailable("refused")]

    def work() -> int:
        if failures:
            raise failures.pop()
        return 7

    with caplog.at_level(logging.WARNING):
        assert RetryWhileUnavailable(threading.Event(), grace_s=0)(work) == 7
    assert [record.getMessage() for record in caplog.records] == [
        "the store is unavailable, retry in 1 s: refused",
        "the store is unavailable, retry in 2 s: refused",
    ]


def test_other_errors_are_not_retried() -> None:
    def work() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        RetryWhileUnavailable(threading.Event(), grace_s=0)(work)


def test_the_work_may_retry_something_of_its_own_and_give_up() -> None:
    calls: list[int] = []

    def work() -> None:
        calls.append(1)
        raise RetryError(Future(1))

    with pytest.raises(RetryError):
        RetryWhileUnavailable(threading.Event(), grace_s=0)(work)
    assert len(calls) == 1


def test_a_stopping_worker_gives_up_at_once_without_a_grace_time() -> None:
    leave = threading.Event()
    start_s = time.monotonic()
    threading.Timer(0.2, leave.set).start()
    with pytest.raises(RetryAborted) as aborted:
        RetryWhileUnavailable(leave, grace_s=0)(unavailable)
    assert isinstance(aborted.value.__cause__, StoreUnavailable)
    assert time.monotonic() - start_s < 0.9, "the wait of one second was cut short"


def test_a_stopping_worker_retries_for_its_grace_time() -> None:
    leave = threading.Event()
    leave.set()
    attempts: list[float] = []

    def work() -> None:
        attempts.append(time.monotonic())
        unavailable()

    start_s = time.monotonic()
    with pytest.raises(RetryAborted):
        RetryWhileUnavailable(leave, grace_s=1.5)(work)
    assert len(attempts) == 3, "at once, as the grace time begins, and a second later"
    assert time.monotonic() - start_s < 1.5
