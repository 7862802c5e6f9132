"""Training checkpoints: atomic save, verified load, fallback to the one before; last 3 are kept.

A checkpoint is a folder `step-00000120` with `model.safetensors`, `optimiser.safetensors`,
`state.json` and `manifest.json` (sha256 of the others). It is written in a temporary folder, synced
and renamed, so a folder of that name is complete or detected as damaged. Nothing is unpickled.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kdcore.errors import CheckpointError, disk_full, is_disk_full
from kdcore.files import MANIFEST, Manifest, json_bytes, remove_temporary, replace_folder

KEEP = 3
MODEL = "model.safetensors"
OPTIMISER = "optimiser.safetensors"
STATE = "state.json"
_FILES = {MODEL, OPTIMISER, STATE}


@dataclass
class Checkpoint:
    """A verified checkpoint in memory."""

    step: int
    model: dict[str, Tensor]
    optimiser: dict[str, Tensor]
    state: dict[str, Any]


def needed_bytes(*tensors: dict[str, Tensor]) -> int:
    """Approximate size of these tensors in files, with their names and a little JSON."""
    return (1 << 16) + sum(
        (1 << 8) + tensor.numel() * tensor.element_size()
        for group in tensors
        for tensor in group.values()
    )


class Checkpointer:
    """Saves and loads the checkpoints of one run in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(
        self,
        step: int,
        model: nn.Module,
        optimiser: dict[str, Tensor],
        state: dict[str, Any],
    ) -> Path:
        """Write the checkpoint of `step` and remove the oldest; raises DiskFull.

        An intact one of this step is left as it is: it can only be the same.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f".tmp-{os.getpid()}-{step}"
        final = self._folder_of(step)
        tensors = {name: tensor.detach() for name, tensor in model.named_parameters()}
        try:
            if not self._is_intact(step):
                remove_temporary(self.folder)
                temporary.mkdir()
                _save_tensors(tensors, temporary / MODEL)
                _save_tensors(optimiser, temporary / OPTIMISER)
                (temporary / STATE).write_bytes(json_bytes({"step": step, **state}))
                Manifest.of(temporary).write(temporary / MANIFEST)
                replace_folder(temporary, final)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if is_disk_full(error):
                raise disk_full(self.folder, needed_bytes(tensors, optimiser)) from error
            raise
        self._remove_old(step)
        return final

    def steps(self) -> list[int]:
        """Steps of the folders named like checkpoints, newest first; not yet verified."""
        if not self.folder.is_dir():
            return []
        names = (path.name for path in self.folder.glob("step-*") if path.is_dir())
        return sorted((int(name[5:]) for name in names if name[5:].isdigit()), reverse=True)

    def load_newest(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest checkpoint that passes its checksums, and why newer ones were skipped."""
        refused: list[str] = []
        for step in self.steps():
            try:
                return self.load(step), refused
            except CheckpointError as error:
                refused.append(str(error))
        return None, refused

    def load(self, step: int) -> Checkpoint:
        """The checkpoint of `step`; raises CheckpointError if it differs from its manifest."""
        folder = self._folder_of(step)
        try:
            self._verify(folder)
            state = json.loads((folder / STATE).read_text(encoding="utf-8"))
            return Checkpoint(
                step=int(state.pop("step")),
                model=load_file(folder / MODEL),
                optimiser=load_file(folder / OPTIMISER),
                state=state,
            )
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise CheckpointError(f"{folder.name} is unreadable: {error}") from error

    def _folder_of(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _is_intact(self, step: int) -> bool:
        try:
            self._verify(self._folder_of(step))
        except (CheckpointError, OSError, ValueError):
            return False
        return True

    @staticmethod
    def _verify(folder: Path) -> None:
        manifest = Manifest.read(folder / MANIFEST)
        if {file.path for file in manifest.files} != _FILES:
            raise CheckpointError(f"{folder.name}: {MANIFEST} names other files than were written")
        if (problem := next(manifest.problems(folder), None)) is not None:
            raise CheckpointError(f"{folder.name}: {problem}")

    def _remove_old(self, newest: int) -> None:
        steps = self.steps()
        # A run that saves `newest` resumed from before it, so newer ones are damaged. If they
        # counted, enough of them would push out the good ones.
        keep = [step for step in steps if step <= newest][:KEEP]
        for step in set(steps) - set(keep):
            shutil.rmtree(self._folder_of(step), ignore_errors=True)
        remove_temporary(self.folder)


def _save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, path)


def optimiser_tensors(optimiser: torch.optim.Optimizer, names: dict[int, str]) -> dict[str, Tensor]:
    """AdamW's state as flat tensors, `parameter/moment`; `names` maps id(parameter) to its name."""
    return {
        f"{names[id(parameter)]}/{key}": value
        for parameter, state in optimiser.state.items()
        for key, value in state.items()
    }


def restore_optimiser(
    optimiser: torch.optim.Optimizer, names: dict[int, str], tensors: dict[str, Tensor]
) -> None:
    """Put the tensors of `optimiser_tensors` back, bit for bit."""
    parameters = {
        names[id(parameter)]: parameter
        for group in optimiser.param_groups
        for parameter in group["params"]
    }
    for key, tensor in tensors.items():
        name, _, moment = key.rpartition("/")
        parameter = parameters[name]
        # AdamW keeps `step` on the host unless it is fused; the fused one keeps it with the rest.
        fused = bool(optimiser.defaults.get("fused"))
        device = parameter.device if moment != "step" or fused else torch.device("cpu")
        optimiser.state[parameter][moment] = tensor.to(device)
