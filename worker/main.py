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
from worker.cleanup import Tidy
from worker.devices import Device, cpu, devices, problem_of
from worker.fleet import EXIT_NO_DEVICE, leave_with_parent, run_fleet
from worker.heartbeat import Heartbeat
from worker.registration import deregister, register
from worker.resource_usage import Meter
from worker.retry import DATABASE_AWAY, GaveUp, Patience
from worker.supervisor import Supervisor, Tools
from worker.tasks import make_worker_app
from worker.trainer_process import Standby

logger = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Serve until told to leave; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m worker.main", description=__doc__)
    parser.add_argument(
        "--device",
        help="auto, cpu, cuda, cuda:N or a UUID; cuda:0,cuda:1 for both at once. The default is "
        "HALFLAYER_DEVICE, or auto: GPUs, else the CPU",
    )
    parser.add_argument(
        "--devices-per-run", type=int, default=1, metavar="N", help="devices that train one run"
    )
    parser.add_argument("--leave-with-parent", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.leave_with_parent:
        leave_with_parent()
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
    """One worker on one device, until told to leave, or the device is gone."""
    leave = threading.Event()
    gone: list[str] = []

    def check_device() -> None:
        if (problem := problem_of(device)) is None:
            return
        gone.append(f"{device.id} cannot be used any more: {problem}")
        logger.error("leaving, so that other workers take the runs: %s", gone[0])
        leave.set()
        os.kill(os.getpid(), signal.SIGTERM)  # as if told to leave

    db = Database(settings.resolved_database_url)
    job_queue = JobQueue(settings)
    try:
        worker_id = Patience(leave, grace_s=0)(lambda: register(db, device))
    except GaveUp:
        return 1
    meter = Meter(device, settings.heartbeat_s)
    heart = Heartbeat(db, worker_id, settings, meter)
    standby = Standby() if settings.standby else None
    store = Store(settings)
    os.environ |= device.environment()  # for the trainers
    tools = Tools(
        settings,
        db,
        store,
        job_queue,
        heart,
        worker_id,
        device.bound_id,
        leave,
        check_device,
        standby,
    )
    sweeper = threading.Thread(
        target=Sweeper(db, job_queue, settings).run, args=(leave,), name="sweeper", daemon=True
    )
    tidy = threading.Thread(
        target=Tidy(settings, db, store).run, args=(leave,), name="tidy", daemon=True
    )
    logger.info("worker %s on %s (%s)", worker_id, device.id, device.name)
    if standby is not None:
        standby.prepare()
    meter.start()
    heart.start()
    sweeper.start()
    tidy.start()
    try:
        status = _run_jobs(settings, Supervisor(tools), worker_id, leave)
    finally:
        leave.set()
        if standby is not None:
            standby.close()
        heart.stop()
        meter.stop()
        sweeper.join()
        _sign_out(db, worker_id, gone[0] if gone else None)
        job_queue.close()
        db.close()
    return EXIT_NO_DEVICE if gone else status


def _run_jobs(
    settings: Settings, supervisor: Supervisor, worker_id: str, leave: threading.Event
) -> int:
    def on_shutting_down(**_: object) -> None:
        # Runs inside a signal handler: no more than this.
        leave.set()

    signals.worker_shutting_down.connect(on_shutting_down, weak=False)
    # Whoever answers this signal keeps Celery from setting up logs of its own.
    signals.setup_logging.connect(_logs_are_set_up, weak=False)
    # Threads with a concurrency of 1: the supervisor waits in a thread of its own, so that the
    # main thread hears signals and keeps the broker's connection alive.
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


def _logs_are_set_up(**_: object) -> None:
    """By `main`."""


def _sign_out(db: Database, worker_id: str, reason: str | None) -> None:
    try:
        deregister(db, worker_id, reason)
    except DATABASE_AWAY as error:
        logger.warning("left without signing out: %s", error)


if __name__ == "__main__":
    sys.exit(main())
