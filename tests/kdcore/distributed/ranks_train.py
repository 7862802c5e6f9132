"""`python -m kdcore` in one of several processes, which also writes down what it had and did.

    torchrun --nproc-per-node 2 ranks_train.py NOTES FAULT run --config ...

NOTES is a folder for what each process had in the end; FAULT is what happens to process 1: `none`,
`layers` (it drops others), `weights` (one bit of its own flips), `memory` (it has none left),
`device` (its GPU breaks) or `device memory` (its GPU has none).
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import kdcore.cli
import kdcore.loss.objectives
import kdcore.process
import kdcore.run
from kdcore.distributed.torchrun import end_at_once

RANK = int(os.environ["RANK"])


def main(notes: Path, fault: str, arguments: list[str]) -> int:
    befallen = fault if RANK == 1 else "none"
    drawn: dict[int, list[int]] = {}
    models: list[Any] = []
    draw, train, look = (
        kdcore.loss.objectives.layers_active,
        kdcore.run.train,
        kdcore.process.StopRequest.__call__,
    )
    looks = 0

    def layers_active(layers: int, rate: float, seed: int, step: int) -> list[int]:
        active = draw(layers, rate, seed, step)
        if befallen == "layers" and step == 3:
            active = [layer for layer in range(layers) if layer not in active]
        drawn[step] = active
        return active

    def noted_train(config: Any, model: Any, *others: Any, **options: Any) -> Any:
        models.append(model)
        return train(config, model, *others, **options)

    def should_stop(self: Any) -> bool:
        nonlocal looks
        looks += 1
        if looks == 4 and befallen == "memory":
            torch.empty(1 << 50)
        if looks == 4 and befallen == "weights":
            next(models[0].parameters()).data.view(torch.int32)[5, 0] ^= 1 << 22
        return look(self)

    def losses(self: Any, *others: Any) -> Any:
        if befallen == "device":
            raise torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered")
        if befallen == "device memory":
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return compute(self, *others)

    compute = kdcore.loss.objectives.MlmObjective.losses
    kdcore.loss.objectives.MlmObjective.losses = losses  # type: ignore[method-assign]
    kdcore.loss.objectives.layers_active = layers_active
    kdcore.run.train = noted_train
    kdcore.process.StopRequest.__call__ = should_stop
    status = kdcore.cli.main(arguments)
    save_file(dict(models[0].named_parameters()), notes / f"{RANK}.safetensors")
    (notes / f"{RANK}.json").write_text(json.dumps(drawn))
    return status


if __name__ == "__main__":
    end_at_once(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
