"""Saves something small for each line it reads, in a child that stops itself first.

Each line on standard input is `[what, folder]` in JSON, `what` being one of `checkpoint`, `result`
and `artifacts`. The answer is the process id of a child that is stopped just before the saving;
so that it can be traced, and then continued. The second answer is its exit status.
"""

import ctypes
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from transformers.utils.logging import disable_progress_bar

from app.settings import Settings
from app.storage import Store
from kdcore.config import ScratchModel, TeacherConfig
from kdcore.data.tokenizers import tokens_from_folder
from kdcore.files import Manifest
from kdcore.model.bert import build_teacher
from kdcore.train.checkpoint import Checkpointer
from kdcore.train.export import publish_result
from worker.publish import publish
from worker.workspace import Workspace

BEFORE, STEP = 4, 5
"""There are checkpoints up to `BEFORE`; the saving is that of `STEP`."""
RUN = "run"
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "word")
_PR_SET_PTRACER = 0x59616D61


def save(checkpointer: Checkpointer, step: int) -> None:
    """Save a checkpoint whose weights tell its step."""
    model = nn.Linear(40, 40)
    nn.init.constant_(model.weight, step)
    moments = {"weight/exp_avg": torch.full((40, 40), step + 0.5)}
    checkpointer.save(step, model, moments, {"identity": "save targets"})


def save_checkpoint(folder: Path) -> None:
    """The checkpoint after those that are there."""
    save(Checkpointer(folder), STEP)


def make_result() -> Callable[[Path], None]:
    """What publishes a tiny teacher; made once, for the making takes longer than the saving."""
    config = TeacherConfig(
        model=ScratchModel(layers=1, hidden_size=8, heads=1, intermediate_size=8, max_positions=8),
        seq_len=8,
    )
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "vocab.txt").write_text("\n".join(WORDS) + "\n")
        tokens = tokens_from_folder(Path(folder))
    assert isinstance(config.model, ScratchModel)
    model = build_teacher(config.model, len(WORDS), 0, 1)
    summary = {"role": "teacher", "layers": 1, "eval_loss": 1.0}
    return lambda folder: void(publish_result(folder, config, model, tokens, summary, {}))


def workspace_of(folder: Path) -> tuple[Workspace, Store]:
    """An attempt's folder and a store, both below `folder`."""
    settings = Settings(data_dir=folder)
    return Workspace.of(settings, RUN, 1), Store(settings)


def fill_workspace(folder: Path) -> None:
    """A result of two files, ready to be brought into the store."""
    workspace, _ = workspace_of(folder)
    workspace.model.mkdir(parents=True)
    (workspace.model / "model.safetensors").write_bytes(bytes(range(256)) * 9000)
    (workspace.model / "config.json").write_text("{}")
    Manifest.of(workspace.model).write(workspace.manifest)


def put_artifacts(folder: Path) -> None:
    """Bring the result of `fill_workspace` into the store."""
    workspace, store = workspace_of(folder)
    void(publish(workspace, RUN, store))


def void(_value: object) -> None:
    """Nothing, whatever it is given."""


def main() -> None:
    disable_progress_bar()
    targets = {
        "checkpoint": save_checkpoint,
        "result": make_result(),
        "artifacts": put_artifacts,
    }
    for line in sys.stdin:
        what, folder = json.loads(line)
        child = os.fork()
        if child == 0:
            # Some kernels let only the parent trace; allow every process of this user.
            ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)
            os.kill(os.getpid(), signal.SIGSTOP)
            targets[what](Path(folder))
            os._exit(0)
        os.waitpid(child, os.WUNTRACED)
        print(child, flush=True)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(status, flush=True)


if __name__ == "__main__":
    main()
