"""Starts one process per device through torchrun, and reads the environment that torchrun sets.

The launcher trains nothing and writes nothing. It forwards requests to stop to its processes, and
exits as the first process that failed did: with its exit status, or by its signal.
"""

import ctypes
import logging
import os
import resource
import shutil
import signal
import sys
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import psutil

from kdcore.errors import ConfigError
from kdcore.process import EXIT_RANK_LOST

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

_LAUNCHER = "KDCORE_LAUNCHER_PID"
_PR_SET_PDEATHSIG = 1
_SAFE_PATH = ("-P",) if sys.flags.safe_path else ()
"""Import from the current folder only if this process does: in a checkout it may."""


@dataclass(frozen=True)
class TorchrunEnv:
    """What torchrun's environment variables say about this process."""

    rank: int
    world: int
    local_rank: int

    @classmethod
    def from_environment(cls) -> "TorchrunEnv | None":
        """From RANK, WORLD_SIZE and LOCAL_RANK; None if torchrun did not start this process."""
        try:
            rank, world, local_rank = (
                int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")
            )
        except (KeyError, ValueError):
            return None
        return cls(rank, world, local_rank) if "MASTER_ADDR" in os.environ else None

    def own(self, device: str) -> str:
        """This process's device, where `device` names one for each or a kind for all."""
        names = [name.strip() for name in device.split(",")]
        if len(names) == 1:
            return f"{device}:{self.local_rank}" if device in ("auto", "cuda") else device
        if self.local_rank >= len(names):
            raise ConfigError(
                ("device",),
                f"torchrun started more processes than {device} has devices: start one per device",
            )
        return names[self.local_rank]


def process_count(device: str, devices: int | None) -> int:
    """How many processes `--device` and `--devices` ask for; raises ConfigError."""
    names = [name.strip() for name in device.split(",")]
    if len(names) > 1:
        if devices not in (None, len(names)):
            raise ConfigError(
                ("devices",), f"{device} lists {len(names)} devices, but --devices is {devices}"
            )
        if any(name != "cpu" and names.count(name) > 1 for name in names):
            raise ConfigError(("device",), f"{device} lists a device twice")
        return len(names)
    if devices is not None and devices > 1 and ":" in device:
        raise ConfigError(("devices",), f"{device} is one device: list all {devices}, or use cuda")
    return devices or 1


def die_with_launcher() -> None:
    """Have the kernel kill this process when the one that started it dies (Linux).

    torchrun gives each process a session of its own, where no signal to torchrun's reaches it.
    """
    if sys.platform != "linux":
        return
    # A launcher may have died before this process gets here.
    parent = int(os.environ.get(_LAUNCHER, os.getppid()))
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def end_at_once(status: int) -> NoReturn:
    """Exit without the clean-up of an ordinary exit, which would wait for processes that died."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(status)


def launch(arguments: list[str], count: int, folder: Path) -> int:
    """Run `python -m kdcore` with these arguments in `count` processes of torchrun.

    Returns the exit status, unless a process died of a signal: then so does this one. Scratch
    files are in `folder` meanwhile.
    """
    # Imported here: it takes seconds, and most runs have one device.
    from torch.distributed.elastic.multiprocessing import (  # noqa: PLC0415
        DefaultLogsSpecs,
        SignalException,
    )
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError  # noqa: PLC0415
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch  # noqa: PLC0415

    from kdcore.distributed.rendezvous import LOOPBACK, register_loopback  # noqa: PLC0415

    logging.disable(logging.ERROR)  # torchrun's; what matters is said here and in the events
    cores = len(psutil.Process().cpu_affinity()) if sys.platform == "linux" else os.cpu_count()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (cores or 1) // count)))
    if sys.platform == "linux":
        # Listen on the loopback interface only: nothing outside this machine takes part.
        for library in ("GLOO", "NCCL"):
            os.environ.setdefault(f"{library}_SOCKET_IFNAME", "lo")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _pass_on)
    os.environ[_LAUNCHER] = str(os.getpid())
    register_loopback()
    scratch = folder / ".torchrun"
    try:
        elastic_launch(
            LaunchConfig(
                min_nodes=1,
                max_nodes=1,
                nproc_per_node=count,
                run_id=uuid.uuid4().hex,
                rdzv_backend=LOOPBACK,
                max_restarts=0,
                signals_to_handle="SIGHUP",
                logs_specs=DefaultLogsSpecs(log_dir=str(scratch)),
            ),
            sys.executable,
        )(*_SAFE_PATH, "-m", "kdcore", *arguments)
        rank, status = 0, 0
    except ChildFailedError as error:
        rank, status = _first(error.failures)
    except SignalException as error:
        rank, status = 0, -error.sigval
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if status < 0:
        name = signal.Signals(-status).name
        print(f"process {rank} of the run was ended by {name}", file=sys.stderr)  # noqa: T201
        _die_of(-status)
    return status


def _pass_on(number: int, _frame: FrameType | None) -> None:
    """Ask every process to stop; a second Ctrl-C kills them and this one."""
    if number == signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    processes = psutil.Process().children()
    if not processes:
        _die_of(number)  # nothing has begun
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGTERM)


def _first(failures: "dict[int, ProcessFailure]") -> tuple[int, int]:
    """(rank, exit status) of the process that failed first.

    The others failed because they lost it, or were terminated by torchrun.
    """

    def order(rank: int) -> tuple[bool, bool, int, int]:
        failure = failures[rank]
        lost, terminated = failure.exitcode == EXIT_RANK_LOST, failure.exitcode == -signal.SIGTERM
        # Within the same second, a death by a signal comes before what it led to.
        return lost, terminated, int(failure.timestamp), failure.exitcode

    rank = min(failures, key=order)
    return rank, failures[rank].exitcode


def _die_of(number: int) -> None:
    """Die of the signal that ended the training process, so that the parent sees it."""
    sys.stderr.flush()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
