"""Training checkpoints: atomic save, verified load, fallback to the one before; last 3 are kept.

A checkpoint is a folder `step-00000120` with `model.safetensors`, `optimiser.safetensors`,
`state.json` and `manifest.json` (sha256 of the others). It is written in a temporary folder, synced
and renamed, so a folder of that name is complete, or is detected not to be. Nothing is unpickled.
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
from kdcore.files import sha256_of

KEEP = 3
MANIFEST = "manifest.json"
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


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make a file's content durable."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def sync_tree(folder: Path) -> None:
    """Make every file below `folder`, and their names, durable."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            sync_file(path)
        else:
            sync_folder(path)
    sync_folder(folder)


def manifest_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Path, size and sha256 of every file below `folder`, in the order of their paths."""
    return {
        "files": [
            {
                "path": path.relative_to(folder).as_posix(),
                "size_bytes": path.stat().st_size,
                "sha256": sha256_of(path),
            }
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name != MANIFEST
        ]
    }


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def publish_folder(temporary: Path, final: Path) -> None:
    """Rename a finished folder to its name, durably; one already there is replaced."""
    sync_tree(temporary)
    aside = final.with_name(f".tmp-old-{final.name}")
    shutil.rmtree(aside, ignore_errors=True)
    if final.exists():
        # Not removed in place: a kill meanwhile would leave half of it there.
        final.rename(aside)
    temporary.rename(final)
    sync_folder(final.parent)
    shutil.rmtree(aside, ignore_errors=True)


def drop_temporary(folder: Path) -> None:
    """Remove what a killed or failed save left in `folder`."""
    for leftover in folder.glob(".tmp-*"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def needed_bytes(*tensors: dict[str, Tensor]) -> int:
    """Approximate size of these in files: the tensors, their names, and a little JSON."""
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
        """Write the checkpoint of `step` and drop the oldest; raises DiskFull.

        An intact one of the same step is left as it is: it can only be the same.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f".tmp-{os.getpid()}-{step}"
        final = self._place(step)
        tensors = {name: tensor.detach() for name, tensor in model.named_parameters()}
        try:
            if not self._is_sound(step):
                drop_temporary(self.folder)
                temporary.mkdir()
                _save_tensors(tensors, temporary / MODEL)
                _save_tensors(optimiser, temporary / OPTIMISER)
                write_json(temporary / STATE, {"step": step, **state})
                write_json(temporary / MANIFEST, manifest_of(temporary))
                publish_folder(temporary, final)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if is_disk_full(error):
                raise disk_full(self.folder, needed_bytes(tensors, optimiser)) from error
            raise
        self._drop_old(step)
        return final

    def steps(self) -> list[int]:
        """Steps of the folders that look like checkpoints, newest first; not yet verified."""
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
        """The checkpoint of `step`; raises CheckpointError if a byte of it differs."""
        folder = self._place(step)
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

    def _place(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _is_sound(self, step: int) -> bool:
        try:
            self._verify(self._place(step))
        except (CheckpointError, OSError, ValueError, KeyError, TypeError):
            return False
        return True

    @staticmethod
    def _verify(folder: Path) -> None:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if {entry["path"] for entry in manifest["files"]} != _FILES:
            raise CheckpointError(f"{folder.name}: {MANIFEST} names other files than were written")
        for entry in manifest["files"]:
            path = folder / entry["path"]
            if path.stat().st_size != entry["size_bytes"] or sha256_of(path) != entry["sha256"]:
                raise CheckpointError(f"{folder.name}: {entry['path']} fails its checksum")

    def _drop_old(self, newest: int) -> None:
        steps = self.steps()
        # The run that saves `newest` started from before it: newer ones were damaged and skipped.
        # If they counted, enough of them would displace the good ones.
        keep = [step for step in steps if step <= newest][:KEEP]
        for step in set(steps) - set(keep):
            shutil.rmtree(self._place(step), ignore_errors=True)
        drop_temporary(self.folder)


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
