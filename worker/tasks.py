"""The only Celery task: it passes a run id to the supervisor."""

from celery import Celery

from app.queue import TASK, make_celery
from app.settings import Settings
from worker.supervisor import Supervisor


def make_worker_app(settings: Settings, supervisor: Supervisor) -> Celery:
    """The Celery app of one worker process."""
    celery = make_celery(settings, patient=True)

    @celery.task(name=TASK)  # type: ignore[untyped-decorator]
    def execute(run_id: str) -> None:
        """Carry out a run."""
        supervisor.answer(run_id)

    return celery
