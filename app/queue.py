"""The job queue: Celery over Redis or Valkey carries run ids and nothing else.

The database is the source of truth; a lost, repeated or late job is harmless. Holds the Celery
settings of both sides; the task itself is in `worker`.
"""

import logging
from typing import Any

import redis
from celery import Celery
from celery.app.amqp import AMQP
from kombu import Connection
from kombu.exceptions import KombuError

from app.settings import Settings

logger = logging.getLogger(__name__)

QUEUE = "halflayer"
TASK = "halflayer.execute"

RECONNECT_S = 3.0
"""How often a worker tries to reach an unavailable broker."""

_UNAVAILABLE = (redis.RedisError, KombuError, OSError)


class _EagerConnection(Connection):  # type: ignore[misc]
    """Reconnects sooner than Kombu, whose waits grow to 30 s."""

    def ensure_connection(self, *args: Any, **options: Any) -> Connection:
        return super().ensure_connection(*args, **{"interval_max": RECONNECT_S} | options)


class _Amqp(AMQP):  # type: ignore[misc]
    Connection = _EagerConnection


def make_celery(settings: Settings, *, retry: bool) -> Celery:
    """The Celery app; with `retry`, for workers, it waits for an unavailable broker.

    Without, for requests, it gives up within seconds, and the sweeper enqueues the run later.
    """
    app = Celery("halflayer", broker=settings.broker_url, amqp=_Amqp, set_as_current=False)
    timeouts = {"socket_keepalive": True, "socket_timeout": 30, "health_check_interval": 25}
    if not retry:
        timeouts |= {"socket_timeout": 3, "socket_connect_timeout": 2, "max_retries": 0}
    app.conf.update(
        task_default_queue=QUEUE,
        # Early ack: late acks on Redis deliver a task again after an hour, which would run long
        # training twice. The sweeper finds the runs of dead workers instead.
        task_acks_late=False,
        task_reject_on_worker_lost=False,
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        task_publish_retry=False,
        worker_prefetch_multiplier=1,
        # Otherwise a busy worker would hold back a job that an idle one could take.
        worker_disable_prefetch=True,
        worker_pool="threads",
        worker_concurrency=1,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
        worker_enable_remote_control=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options=timeouts,
        timezone="UTC",
        enable_utc=True,
    )
    return app


class JobQueue:
    """Enqueues runs."""

    def __init__(self, settings: Settings) -> None:
        self._celery = make_celery(settings, retry=False)
        self._redis = redis.Redis.from_url(
            settings.broker_url, socket_timeout=3, socket_connect_timeout=2
        )

    def enqueue(self, run_id: str) -> bool:
        """Tell the workers that `run_id` is queued; False if the broker is unavailable."""
        try:
            self._celery.send_task(TASK, args=[run_id], queue=QUEUE, retry=False)
        except _UNAVAILABLE as error:
            logger.warning("run %s not enqueued: %s", run_id, error)
            return False
        return True

    def length(self) -> int | None:
        """Number of waiting jobs; None if the broker is unavailable."""
        try:
            length = self._redis.llen(QUEUE)
        except _UNAVAILABLE:
            return None
        assert isinstance(length, int)
        return length

    def ping(self) -> bool:
        """Whether the broker answers."""
        try:
            return bool(self._redis.ping())
        except _UNAVAILABLE:
            return False

    def close(self) -> None:
        """Close all connections."""
        self._celery.close()
        self._redis.close()
