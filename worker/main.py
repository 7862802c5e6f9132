"""`python -m worker.main --device auto|cpu|cuda|cuda:N|UUID`: a worker, one process per device."""

import argparse
import logging
import os
import signal
import sys
import threading

from celery import signals

from app.db import Database
from app.monitoring import logs
from app.private_files import keep_private, make_files_private
from app.queue import JobQueue
from app.runs.sweeper import Sweeper
from app.settings import Settings
from app.storage import Store
from worker.cleanup import Cleanup
from worker.devices import Device, cpu, devices, problem_of
from worker.fleet import EXIT_NO_DEVICE, exit_with_parent, run_fleet
from worker.heartbeat import Heartbeat
from worker.registration import deregister, register
from worker.resource_usage import Meter
from worker.retry import DATABASE_UNAVAILABLE, RetryAborted, RetryWhileUnavailable
from worker.supervisor import Supervisor, Tools
from worker.tasks import make_worker_app
from worker.trainer_process import Standby

logger = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Work until asked to stop; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m worker.main", description=__doc__)
    parser.add_argument(
        "--device",
        help="auto, cpu, cuda, cuda:N or a UUID; cuda:0,cuda:1 for both at once. The default is "
        "HALFLAYER_DEVICE, or auto: GPUs, else the CPU",
    )
    parser.add_argument(
        "--devices-per-run", type=int, default=1, metavar="N", help="devices per run"
    )
    parser.add_argument("--exit-with-parent", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.exit_with_parent:
        exit_with_parent()
    settings = Settings()
    logs.configure(settings.log_format, "worker")
    make_files_private()
    keep_private(settings)
    wanted = options.device or settings.device
    try:
        found = devices(wanted, max(1, options.devices_per_run))
    except LookupError as error:
        logger.error("%s", error)
        return EXIT_NO_DEVICE
    if len(found) > 1:
        return run_fleet(found)
    (device,) = found
    if (problem := problem_of(device)) is not None:
        if wanted != "auto":
            logger.error("%s (%s) cannot be used: %s", device.id, device.name, problem)
            return EXIT_NO_DEVICE
        device = cpu(f"{device.id} ({device.name}) cannot be used: {problem}")
    if device.note:
        logger.warning("training on the CPU: %s", device.note)
    return serve(settings, device)


def serve(settings: Settings, device: Device) -> int:
    """Run one worker on one device until it is asked to stop or the device is lost."""
    leave = threading.Event()
    lost: list[str] = []

    def check_device() -> None:
        if (problem := problem_of(device)) is None:
            return
        lost.append(f"{device.id} cannot be used any more: {problem}")
        logger.error("stopping, so that other workers take the runs: %s", lost[0])
        leave.set()
        os.kill(os.getpid(), signal.SIGTERM)  # as if asked to stop

    db = Database(settings.resolved_database_url)
    job_queue = JobQueue(settings)
    try:
        worker_id = RetryWhileUnavailable(leave, grace_s=0)(lambda: register(db, device))
    except RetryAborted:
        return 1
    meter = Meter(device, settings.heartbeat_s)
    heartbeat = Heartbeat(db, worker_id, settings, meter)
    standby = Standby() if settings.standby else None
    store = Store(settings)
    os.environ |= device.environment()  # for the trainers
    tools = Tools(
        settings,
        db,
        store,
        job_queue,
        heartbeat,
        worker_id,
        device.bound_id,
        leave,
        check_device,
        standby,
    )
    sweeper = threading.Thread(
        target=Sweeper(db, job_queue, settings).run, args=(leave,), name="sweeper", daemon=True
    )
    cleanup = threading.Thread(
        target=Cleanup(settings, db, store).run, args=(leave,), name="cleanup", daemon=True
    )
    logger.info("worker %s on %s (%s)", worker_id, device.id, device.name)
    if standby is not None:
        standby.prepare()
    meter.start()
    heartbeat.start()
    sweeper.start()
    cleanup.start()
    try:
        status = _serve_queue(settings, Supervisor(tools), worker_id, leave)
    finally:
        leave.set()
        if standby is not None:
            standby.close()
        heartbeat.stop()
        meter.stop()
        sweeper.join()
        _deregister(db, worker_id, lost[0] if lost else None)
        job_queue.close()
        db.close()
    return EXIT_NO_DEVICE if lost else status


def _serve_queue(
    settings: Settings, supervisor: Supervisor, worker_id: str, leave: threading.Event
) -> int:
    def on_shutting_down(**_: object) -> None:
        # Runs inside a signal handler, so it does nothing else.
        leave.set()

    signals.worker_shutting_down.connect(on_shutting_down, weak=False)
    # A receiver of this signal keeps Celery from configuring logging itself.
    signals.setup_logging.connect(_ignore, weak=False)
    # The supervisor runs in a thread of its own, so that the main thread handles signals and keeps
    # the broker's connection alive.
    worker = make_worker_app(settings, supervisor).Worker(
        hostname=f"{worker_id}@%h",
        pool="threads",
        concurrency=1,
        quiet=True,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    worker.start()
    return int(worker.exitcode or 0)


def _ignore(**_: object) -> None:
    """`main` has configured logging."""


def _deregister(db: Database, worker_id: str, reason: str | None) -> None:
    try:
        deregister(db, worker_id, reason)
    except DATABASE_UNAVAILABLE as error:
        logger.warning("stopped without deregistering: %s", error)


if __name__ == "__main__":
    sys.exit(main())
