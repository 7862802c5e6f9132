"""Training checkpoints: atomic save, verified load, fallback to the one before; last 3 are kept.

A checkpoint is a folder `step-00000120` with `model.safetensors`, `optimiser.safetensors`,
`state.json` and `manifest.json` (sha256 of the others). It is written in a temporary folder, synced
and renamed, so a folder of that name is whole or it is detected not to be. Nothing is unpickled.
"""

import errno
import hashlib
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

from kdcore.errors import CheckpointError, DiskFull

KEEP = 3
MANIFEST = "manifest.json"


@dataclass
class Checkpoint:
    """A verified checkpoint in memory."""

    step: int
    model: dict[str, Tensor]
    optimiser: dict[str, Tensor]
    state: dict[str, Any]


def sha256_of(path: Path) -> str:
    """SHA-256 of a file in hexadecimal, read in bounded memory."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Make every file below `folder`, and their names, durable."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
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
    if final.exists():
        shutil.rmtree(final)
    temporary.rename(final)
    sync_folder(final.parent)


def disk_full(error: OSError, folder: Path, needed_bytes: int) -> DiskFull:
    """The disk-full error in words: how much was needed where, and what is free."""
    free_bytes = shutil.disk_usage(folder).free
    return DiskFull(
        f"no space left in {folder}: {needed_bytes:,} bytes were needed, {free_bytes:,} are free. "
        "Free some space and submit the run again"
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
        """Write the checkpoint of `step` and drop the oldest; raises DiskFull."""
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f".tmp-{os.getpid()}-{step}"
        final = self.folder / f"step-{step:08d}"
        tensors = {name: tensor.detach() for name, tensor in model.named_parameters()}
        needed = sum(t.numel() * t.element_size() for t in (*tensors.values(), *optimiser.values()))
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            save_file(
                {k: v.cpu().contiguous() for k, v in tensors.items()},
                temporary / "model.safetensors",
            )
            save_file(
                {k: v.cpu().contiguous() for k, v in optimiser.items()},
                temporary / "optimiser.safetensors",
            )
            write_json(temporary / "state.json", {"step": step, **state})
            write_json(temporary / MANIFEST, manifest_of(temporary))
            publish_folder(temporary, final)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
                raise disk_full(OSError(str(error)), self.folder, needed) from error
            raise
        self._drop_old()
        return final

    def steps(self) -> list[int]:
        """Steps of the folders that look like checkpoints, newest first; not yet verified."""
        if not self.folder.is_dir():
            return []
        names = (path.name for path in self.folder.glob("step-*") if path.is_dir())
        return sorted((int(name[5:]) for name in names if name[5:].isdigit()), reverse=True)

    def load_newest(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest checkpoint that passes its checksums, and why newer ones were passed over."""
        refused: list[str] = []
        for step in self.steps():
            try:
                return self.load(step), refused
            except CheckpointError as error:
                refused.append(str(error))
        return None, refused

    def load(self, step: int) -> Checkpoint:
        """The checkpoint of `step`; raises CheckpointError if a byte of it is not as written."""
        folder = self.folder / f"step-{step:08d}"
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            for entry in manifest["files"]:
                if sha256_of(folder / entry["path"]) != entry["sha256"]:
                    raise CheckpointError(f"{folder.name}: {entry['path']} fails its checksum")
            state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
            return Checkpoint(
                step=int(state.pop("step")),
                model=load_file(folder / "model.safetensors"),
                optimiser=load_file(folder / "optimiser.safetensors"),
                state=state,
            )
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise CheckpointError(f"{folder.name} is unreadable: {error}") from error

    def _drop_old(self) -> None:
        for step in self.steps()[KEEP:]:
            shutil.rmtree(self.folder / f"step-{step:08d}", ignore_errors=True)
        for leftover in self.folder.glob(".tmp-*"):
            shutil.rmtree(leftover, ignore_errors=True)


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
