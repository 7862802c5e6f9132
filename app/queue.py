"""The doorbell: Celery over Redis or Valkey carries a run id and nothing else.

The database is the truth; a lost, repeated or late ring is harmless. The settings of both sides,
the one that rings and the workers that answer, are here; the task itself is in `worker`.
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
"""A worker tries this often to reach a broker that is away."""

_AWAY = (redis.RedisError, KombuError, OSError)


class _EagerConnection(Connection):  # type: ignore[misc]
    """Kombu's own waits grow to 30 s; so long would a broker that is back go unnoticed."""

    def ensure_connection(self, *args: Any, **options: Any) -> Connection:
        return super().ensure_connection(*args, **{"interval_max": RECONNECT_S} | options)


class _Amqp(AMQP):  # type: ignore[misc]
    Connection = _EagerConnection


def make_celery(settings: Settings, *, patient: bool) -> Celery:
    """The Celery app: `patient` for a worker, which waits for a broker that is away.

    The impatient one is for requests: it gives up within seconds, and the sweeper rings later.
    """
    app = Celery("halflayer", broker=settings.broker_url, amqp=_Amqp, set_as_current=False)
    timeouts = {"socket_keepalive": True, "socket_timeout": 30, "health_check_interval": 25}
    if not patient:
        timeouts |= {"socket_timeout": 3, "socket_connect_timeout": 2, "max_retries": 0}
    app.conf.update(
        task_default_queue=QUEUE,
        # Early ack: late acks on Redis deliver a task again after an hour, which would run long
        # training twice. What a dead worker had in hand is found by the sweeper instead.
        task_acks_late=False,
        task_reject_on_worker_lost=False,
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        task_publish_retry=False,
        worker_prefetch_multiplier=1,
        # Otherwise a busy worker would hold back a doorbell that an idle one could answer.
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
    """Rings for queued runs."""

    def __init__(self, settings: Settings) -> None:
        self._celery = make_celery(settings, patient=False)
        self._redis = redis.Redis.from_url(
            settings.broker_url, socket_timeout=3, socket_connect_timeout=2
        )

    def ring(self, run_id: str) -> bool:
        """Tell the workers that `run_id` is queued; False when the broker is away."""
        try:
            self._celery.send_task(TASK, args=[run_id], queue=QUEUE, retry=False)
        except _AWAY as error:
            logger.warning("doorbell for run %s not rung: %s", run_id, error)
            return False
        return True

    def length(self) -> int | None:
        """Doorbells that nobody has answered yet; None when the broker is away."""
        try:
            length = self._redis.llen(QUEUE)
        except _AWAY:
            return None
        assert isinstance(length, int)
        return length

    def ping(self) -> bool:
        """Whether the broker answers."""
        try:
            return bool(self._redis.ping())
        except _AWAY:
            return False

    def close(self) -> None:
        """Give all connections back."""
        self._celery.close()
        self._redis.close()
