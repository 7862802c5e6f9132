"""Data parallelism: the processes that train one model, one device each, and their collectives.

Every rank makes the same batches, which are a function of (config, seed, step), and computes some
of their microbatches. Gradients are summed over the ranks before each optimizer step, so that all
take the same step. Only rank 0, the main process, writes files and logs. A rank that notices that
another one died or diverged raises instead of waiting or going on.
"""

import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from kdcore.device import device_error, pick_device, use_device
from kdcore.distributed.torchrun import TorchrunEnv
from kdcore.errors import RankLost, RanksDiffer, says_no_memory
from kdcore.grad import own_gradient

TIMEOUT = timedelta(minutes=30)
"""Of a collective: long enough for the main process to save a checkpoint to a slow disk."""
_PREPARATION_TIMEOUT = timedelta(days=2)
"""While the main process prepares alone: tokenising a large corpus takes hours."""
_ALL_REDUCE_ELEMENTS = 1 << 24
"""Elements of one all-reduce: 64 MiB in fp32, besides the gradients themselves."""
_MAX_JSON_BYTES = 1 << 10


@dataclass(frozen=True)
class Ranks:
    """The processes of a run, as seen by one of them; world size 1 without torchrun."""

    rank: int = 0
    world: int = 1
    device: str = "auto"
    """The name of this rank's own device."""
    _store: PrefixStore | None = None
    _host: dist.ProcessGroup | None = None
    """A gloo group for data on the host: these messages never wait for a GPU."""

    @property
    def is_main_process(self) -> bool:
        """Whether this is rank 0, which writes files and logs."""
        return self.rank == 0

    # --------------------------------------------------------------------------- shares of work

    def is_mine(self, turn: int) -> bool:
        """Whether this rank computes microbatch number `turn`."""
        return turn % self.world == self.rank

    def min_parts(self, batches: int) -> int:
        """What the number of microbatches of a batch must be a multiple of, so that every rank
        computes equally many in a step of `batches` batches.

        As small as possible: dropout is seeded per microbatch, so a batch that is split as on one
        device gives that device's loss.
        """
        return self.world // math.gcd(self.world, batches)

    # ----------------------------------------------------------------------------- collectives

    def all_reduce_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace every gradient by its sum over all ranks, the same bits everywhere.

        Raises RanksDiffer unless all ranks that computed anything have gradients of the same
        parameters; otherwise one dropped a layer that another one did not.
        """
        if self.world == 1:
            return
        having = [p for p, has in zip(parameters, self._gradients(parameters), strict=True) if has]
        for some in _groups(having):
            gradients = [own_gradient(parameter) for parameter in some]
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            sums = torch.split(self._reduced(flat), [gradient.numel() for gradient in gradients])
            for gradient, total in zip(gradients, sums, strict=True):
                gradient.copy_(total.view_as(gradient))

    def _gradients(self, parameters: Sequence[nn.Parameter]) -> list[bool]:
        """Which parameters have a gradient anywhere."""
        votes = torch.tensor([1, *(1 if p.grad is not None else -1 for p in parameters)])
        if all(parameter.grad is None for parameter in parameters):
            votes.zero_()  # this rank computed no microbatch of this step
        voters, *found = self._reduced(votes).tolist()
        if any(abs(each) != voters for each in found):
            raise RanksDiffer(
                "the run's processes dropped different layers: the step was not taken, and "
                "no checkpoint contains any of it"
            )
        return [each > 0 for each in found]

    def sum(self, numbers: Tensor) -> Tensor:
        """The sum over all ranks; on a GPU the host does not wait for it."""
        return numbers if self.world == 1 else self._reduced(numbers)

    def any_rank(self, mine: bool) -> bool:
        """Whether it is true on any rank; the same answer on all of them."""
        return bool(self.sum(torch.tensor(int(mine))).item())

    def all_gather_json(self, mine: Any) -> list[Any]:
        """The values of all ranks, in the order of the ranks; any JSON of less than a KiB."""
        if self.world == 1:
            return [mine]
        encoded = bytearray(json.dumps(mine).encode().ljust(_MAX_JSON_BYTES))
        if len(encoded) > _MAX_JSON_BYTES:
            raise ValueError(f"more than {_MAX_JSON_BYTES} bytes of JSON: {len(encoded)}")
        sent = torch.frombuffer(encoded, dtype=torch.uint8)
        received = [torch.empty_like(sent) for _ in range(self.world)]
        with _rank_lost_errors():
            dist.all_gather(received, sent, group=self._host)
        return [json.loads(bytes(each.tolist())) for each in received]

    def check_equal(self, what: str, mine: Any) -> None:
        """Raise RanksDiffer on all ranks unless all give the same JSON."""
        values = self.all_gather_json(mine)
        if any(other != values[0] for other in values):
            raise RanksDiffer(
                f"the run's processes differ in {what} ({values}): they must run the same version "
                "with the same settings and files, on devices of one kind"
            )

    @contextmanager
    def main_process_first(self) -> Iterator[None]:
        """The main process runs the block before all others, however long it takes."""
        if not self.is_main_process:
            self._barrier()
        yield
        if self.is_main_process and self.world > 1:
            self._barrier()

    def _barrier(self) -> None:
        with _rank_lost_errors():
            dist.monitored_barrier(self._host, _PREPARATION_TIMEOUT)

    # --------------------------------------------------------------------------------- the end

    def claim_failure(self) -> bool:
        """Whether no rank has failed before: ranks that fail alike report it only once."""
        if self._store is None:
            return True
        try:
            return bool(self._store.add("failed", 1) == 1)
        except RuntimeError:  # the process that hosted the store died without reporting
            return True

    def destroy(self) -> None:
        """Close the process group."""
        if self.world > 1:
            dist.destroy_process_group()

    def _reduced(self, numbers: Tensor) -> Tensor:
        """Their sum over all ranks, in place."""
        group = self._host if numbers.device.type == "cpu" else None
        with _rank_lost_errors():
            dist.all_reduce(numbers, group=group)
        return numbers


SINGLE_PROCESS = Ranks()


def join(env: TorchrunEnv | None, device: str) -> Ranks:
    """Join the process group of torchrun; `device` may name one for each process.

    Raises RankLost if the others do not join, and DeviceLost if this machine lacks the device.
    """
    if env is None:
        return Ranks(device=device.split(",", maxsplit=1)[0])
    mine = pick_device(env.own(device))
    if env.world == 1:
        return Ranks(device=str(mine))
    use_device(mine)
    with _rank_lost_errors():
        store, rank, world = next(rendezvous("env://", timeout=TIMEOUT))
        dist.init_process_group(
            backend="nccl" if mine.type == "cuda" else "gloo",
            store=PrefixStore("group", store),
            rank=rank,
            world_size=world,
            timeout=TIMEOUT,
        )
        host = dist.group.WORLD
        if mine.type == "cuda":
            host = dist.new_group(backend="gloo", timeout=TIMEOUT)
    return Ranks(rank, world, str(mine), PrefixStore("run", store), host)


def checksum(parameters: Sequence[Tensor]) -> str:
    """A checksum that differs, but for rare collisions, where a bit of any of these differs."""
    sums = [each.detach().view(torch.int32).sum(dtype=torch.int64) for each in parameters]
    factors = torch.arange(1, 2 * len(sums), 2)
    return f"{(torch.stack(sums).cpu() * factors).sum().item():x}"


def _groups(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """All of them in order, in groups of about `_ALL_REDUCE_ELEMENTS` elements."""
    some: list[nn.Parameter] = []
    for parameter in parameters:
        some.append(parameter)
        if sum(each.numel() for each in some) >= _ALL_REDUCE_ELEMENTS:
            yield some
            some = []
    if some:
        yield some


@contextmanager
def _rank_lost_errors() -> Iterator[None]:
    """Turn the errors of a collective into RankLost: another rank died, or did not come in time.

    Errors of this process's own device or memory keep their type.
    """
    try:
        yield
    except RuntimeError as error:
        if device_error(error) is not None or says_no_memory(str(error)):
            raise
        rank = os.environ.get("RANK")
        raise RankLost(f"process {rank} lost another process of its run: {error}") from error
