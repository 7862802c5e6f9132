"""Killed at each system call of a saving: of a checkpoint, of a result, of its way to the store."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from faults import save_targets
from faults.figures import Figure, Row
from faults.installation import ROOT
from faults.trial import Trial
from kdcore.files import Manifest
from kdcore.train.checkpoint import Checkpoint, Checkpointer
from tests.fixtures.missing import skip_or_fail
from worker.publish import publish

_CALL = re.compile(r"^([a-z0-9_]+)\(", re.MULTILINE)


class Saver:
    """Forks a child for each save; it can be made to die at one of its system calls."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "faults.save_targets"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
            text=True,
            bufsize=1,
        )

    def save(self, what: str, folder: Path, log: Path, *options: str) -> int:
        """Save into `folder` under strace with these options; returns the child's exit status."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([what, str(folder)]) + "\n")
        child = self._answer()
        tracer = subprocess.Popen(
            ["strace", "-p", str(child), "-o", str(log), *options],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert tracer.stderr is not None
        attached = tracer.stderr.readline()
        os.kill(child, signal.SIGCONT)
        status = self._answer()
        tracer.communicate()
        if "attached" not in attached:
            skip_or_fail(f"strace may not trace here: {attached.strip()}")
        return status

    def _answer(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@contextmanager
def _saver() -> Iterator[Saver]:
    if shutil.which("strace") is None:
        skip_or_fail("strace is not installed")
    saver = Saver()
    try:
        yield saver
    finally:
        saver.close()


@dataclass(frozen=True)
class Saving:
    """A saving to be killed: what is there before it, and what must be there after it."""

    what: str
    fault: str
    seen: str
    figure: str
    prepare: Callable[[Path], None]
    damage: Callable[[Path], bool]
    """Whether what a killed saving left cannot be used, or stands in the next one's way."""


def _calls(saver: Saver, saving: Saving, folder: Path) -> list[tuple[str, int]]:
    """Every system call on files of an undisturbed saving: its name, and the how manieth it is."""
    log = folder / "calls.log"
    saving.prepare(folder / "whole")
    status = saver.save(saving.what, folder / "whole", log, "-e", "trace=%file,%desc")
    assert status == 0, f"the saving itself failed: {status}"
    seen: Counter[str] = Counter()
    found = []
    for name in _CALL.findall(log.read_text(errors="replace")):
        seen[name] += 1
        found.append((name, seen[name]))
    return found


def _kill(trial: Trial, saver: Saver, saving: Saving) -> Row:
    """Kill one saving after the other, each at the next system call."""
    folder = trial.new_folder("save_targets")
    calls = _calls(saver, saving, folder)
    chosen = list(range(len(calls)))
    if not trial.long:
        chosen = sorted(trial.random("save_targets", saving.fault).sample(chosen, 10))
    damaged, survived = [], 0
    for index in chosen:
        name, number = calls[index]
        trial.say(f"{saving.fault}: system call {index + 1} of {len(calls)}")
        place = folder / str(index)
        saving.prepare(place)
        options = ("-e", f"trace={name}", "-e", f"inject={name}:signal=KILL:when={number}")
        status = saver.save(saving.what, place, folder / "log", *options)
        survived += status != -signal.SIGKILL
        if saving.damage(place):
            damaged.append(f"{name} {number}")
        shutil.rmtree(place)
    return Row(
        saving.fault,
        len(chosen),
        saving.seen,
        [
            Figure(saving.figure, len(damaged), reason=", ".join(damaged)),
            Figure("survived_kills", survived),
        ],
        {"system calls": len(calls)},
    )


# --------------------------------------------------------------------------------- checkpoints


def _earlier_checkpoints(folder: Path) -> None:
    for step in range(1, save_targets.BEFORE + 1):
        save_targets.save(Checkpointer(folder), step)


def _damaged_checkpoint_too(folder: Path) -> None:
    _earlier_checkpoints(folder)
    save_targets.save_checkpoint(folder)
    file = folder / f"step-{save_targets.STEP:08d}" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-7])


def _checkpoint_damaged(folder: Path) -> bool:
    checkpointer = Checkpointer(folder)
    found, _ = checkpointer.load_newest()
    if (
        found is None
        or found.step not in (save_targets.BEFORE, save_targets.STEP)
        or not _right(found)
    ):
        return True
    save_targets.save_checkpoint(folder)
    again, refused = checkpointer.load_newest()
    leftovers = list(folder.glob(".*"))
    return again is None or again.step != save_targets.STEP or bool(refused) or bool(leftovers)


def _right(found: Checkpoint) -> bool:
    weights, moments = found.model["weight"], found.optimiser["weight/exp_avg"]
    return bool((weights == found.step).all()) and bool((moments == found.step + 0.5).all())


# -------------------------------------------------------------------------------------- results


def _nothing(folder: Path) -> None:
    folder.mkdir()


def _result_damaged(folder: Path) -> bool:
    """A folder called `model` must be whole, and the manifest must not claim what is not so."""
    model, manifest = folder / "model", folder / "manifest.json"
    whole = Manifest.of(folder.parent / "whole" / "model")
    if model.exists() and Manifest.of(model) != whole:
        return True
    return manifest.exists() and Manifest.read(manifest) != Manifest.of(model)


def _artifact_damaged(folder: Path) -> bool:
    """What is in the store must be whole, and publishing again must work."""
    workspace, store = save_targets.workspace_of(folder)
    keys = [path for path in (folder / "artifacts").rglob("*") if path.is_file()]
    for path in keys:
        if not path.name.startswith("."):
            whole = workspace.model / path.name
            if path.read_bytes() != whole.read_bytes():
                return True
    return len(publish(workspace, save_targets.RUN, store)) != len(list(workspace.model.iterdir()))


SAVINGS = (
    Saving(
        "checkpoint",
        "SIGKILL at each system call of saving a checkpoint",
        "it goes on from this checkpoint or from the one before",
        "unloadable_checkpoints",
        _earlier_checkpoints,
        _checkpoint_damaged,
    ),
    Saving(
        "checkpoint",
        "SIGKILL at each system call of replacing a damaged checkpoint",
        "it goes on from this checkpoint or from the one before",
        "unloadable_checkpoints",
        _damaged_checkpoint_too,
        _checkpoint_damaged,
    ),
    Saving(
        "result",
        "SIGKILL at each system call of writing the result",
        "the attempt after it writes the result",
        "half_results",
        _nothing,
        _result_damaged,
    ),
    Saving(
        "artifacts",
        "SIGKILL at each system call of bringing the result into the store",
        "the attempt after it publishes the result",
        "half_artifacts",
        save_targets.fill_workspace,
        _artifact_damaged,
    ),
)


def checkpoints(trial: Trial) -> Iterator[Row]:
    """Every saving that there is."""
    with _saver() as saver:
        for saving in SAVINGS:
            yield _kill(trial, saver, saving)
