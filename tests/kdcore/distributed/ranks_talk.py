"""Everything that two processes of a run say to each other; each writes down what it found.

torchrun --nproc-per-node 2 ranks_talk.py NOTES
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdcore.distributed.process_group import Ranks, checksum, join
from kdcore.distributed.torchrun import TorchrunEnv, end_at_once
from kdcore.errors import RankLost, RanksDiffer


def parameters(ranks: Ranks, *having: bool) -> list[nn.Parameter]:
    """Some, with gradients that differ from rank to rank where there are any."""
    found = []
    for number, has in enumerate(having):
        parameter = nn.Parameter(torch.zeros(3, 5 + number))
        if has:
            draw = torch.Generator().manual_seed(10 * ranks.rank + number)
            parameter.grad = torch.randn(3, 5 + number, generator=draw)
        found.append(parameter)
    return found


def gradients(found: list[nn.Parameter]) -> list[Any]:
    return [None if each.grad is None else each.grad.tolist() for each in found]


def refused(work: Any) -> str:
    try:
        work()
    except RanksDiffer as error:
        return str(error)
    return "accepted"


def main(notes: Path) -> None:
    ranks = join(TorchrunEnv.from_environment(), "cpu")
    found: dict[str, Any] = {"told": ranks.all_gather_json({"rank": ranks.rank, "word": "Öl"})}
    found["any"] = [ranks.any_rank(mine) for mine in (False, ranks.rank == 1, True)]
    shares = torch.tensor([0.1 * (ranks.rank + 1), 2.0], dtype=torch.float64)
    found["sum"] = ranks.sum(shares).tolist()

    with_gradients = parameters(ranks, True, False, True)
    found["mine"] = gradients(with_gradients)
    ranks.all_reduce_gradients(with_gradients)
    found["added"] = gradients(with_gradients)

    idle = parameters(ranks, *([ranks.rank == 0] * 2), False)
    ranks.all_reduce_gradients(idle)
    found["one idle"] = gradients(idle)

    different = parameters(ranks, True, ranks.rank == 0)
    found["different layers"] = refused(lambda: ranks.all_reduce_gradients(different))
    found["same weights"] = refused(
        lambda: ranks.check_equal("weights", checksum([torch.ones(2, 2)]))
    )
    flipped = torch.ones(2, 2)
    flipped.view(torch.int32)[1, 1] ^= ranks.rank
    found["different weights"] = refused(lambda: ranks.check_equal("weights", checksum([flipped])))

    order = notes / "order"
    with ranks.main_process_first():
        if ranks.is_main_process:
            time.sleep(0.5)
        with order.open("a") as file:
            file.write(f"{ranks.rank} ")
    found["first to fail"] = ranks.claim_failure()

    # torchrun terminates the other process, which must still write what it has noticed.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if ranks.rank == 1:
        (notes / "1.json").write_text(json.dumps(found))
        os.kill(os.getpid(), signal.SIGKILL)
    start_s = time.monotonic()
    try:
        ranks.any_rank(False)
    except RankLost:
        found["noticed after_s"] = time.monotonic() - start_s
    (notes / "0.json").write_text(json.dumps(found))
    end_at_once(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
