"""Several processes that train one model, a device each: what they share and how they agree.

Every rank makes the same batches, which are a function of (config, seed, step), and computes some
of their parts. The gradients are added up before each step, so that all take the same step. Rank 0,
the chief, alone writes files and says what happens. A rank that notices that another is gone, or
that it does not do the same, raises; nobody waits for the dead, and nobody goes on differently.
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

PATIENCE = timedelta(minutes=30)
"""Who has not come by then hangs: the chief may be saving a checkpoint to a slow disk."""
_LONG_PATIENCE = timedelta(days=2)
"""While the chief alone prepares: a large corpus takes hours to be cut into tokens."""
_AT_ONCE = 1 << 24
"""Elements that are added up at once: 64 MiB in fp32, besides the gradients themselves."""
_WORDS_BYTES = 1 << 10


@dataclass(frozen=True)
class Ranks:
    """The processes of a run, as one of them sees them; by itself if nobody else is there."""

    rank: int = 0
    world: int = 1
    device: str = "auto"
    """The name of this rank's own device."""
    _store: PrefixStore | None = None
    _host: dist.ProcessGroup | None = None
    """For what is on the host: these messages never wait for a GPU."""

    @property
    def is_main_process(self) -> bool:
        """Whether this is the rank that writes and speaks."""
        return self.rank == 0

    # --------------------------------------------------------------------------- shares of work

    def is_mine(self, turn: int) -> bool:
        """Whether part number `turn` of what is dealt out is this rank's."""
        return turn % self.world == self.rank

    def min_parts(self, batches: int) -> int:
        """The number of a batch's parts must be a multiple of this, that as many parts of an
        update of so many batches fall to every rank.

        As small as can be: dropout's randomness begins anew at every part, so that a batch that is
        cut as for one device gives that device's loss.
        """
        return self.world // math.gcd(self.world, batches)

    # -------------------------------------------------------------------------------- adding up

    def all_reduce_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Turn every gradient into the sum of all ranks', the same bits everywhere.

        Raises RanksDiffer unless all who computed anything have gradients of the same parameters:
        a layer that one has dropped and another has not.
        """
        if self.world == 1:
            return
        having = [p for p, has in zip(parameters, self._gradients(parameters), strict=True) if has]
        for some in _at_once(having):
            gradients = [own_gradient(parameter) for parameter in some]
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            sums = torch.split(self._reduced(flat), [gradient.numel() for gradient in gradients])
            for gradient, total in zip(gradients, sums, strict=True):
                gradient.copy_(total.view_as(gradient))

    def _gradients(self, parameters: Sequence[nn.Parameter]) -> list[bool]:
        """Which parameters have a gradient anywhere."""
        votes = torch.tensor([1, *(1 if p.grad is not None else -1 for p in parameters)])
        if all(parameter.grad is None for parameter in parameters):
            votes.zero_()  # no part of this update was this rank's
        voters, *found = self._reduced(votes).tolist()
        if any(abs(each) != voters for each in found):
            raise RanksDiffer(
                "the run's processes have dropped different layers: an update was refused, and "
                "nothing of it is in any checkpoint"
            )
        return [each > 0 for each in found]

    def sum(self, numbers: Tensor) -> Tensor:
        """The sum over all ranks; on a GPU the host does not wait for it."""
        return numbers if self.world == 1 else self._reduced(numbers)

    # --------------------------------------------------------------------------------- agreeing

    def any_rank(self, mine: bool) -> bool:
        """Whether it is true for any rank; everybody gets the same answer."""
        return bool(self.sum(torch.tensor(int(mine))).item())

    def all_gather_json(self, mine: Any) -> list[Any]:
        """What every rank says, in the order of the ranks; any JSON of less than a KiB."""
        if self.world == 1:
            return [mine]
        words = bytearray(json.dumps(mine).encode().ljust(_WORDS_BYTES))
        if len(words) > _WORDS_BYTES:
            raise ValueError(f"too long to tell: {len(words)} bytes")
        said = torch.frombuffer(words, dtype=torch.uint8)
        heard = [torch.empty_like(said) for _ in range(self.world)]
        with _nobody_lost():
            dist.all_gather(heard, said, group=self._host)
        return [json.loads(bytes(each.tolist())) for each in heard]

    def check_equal(self, what: str, mine: Any) -> None:
        """Raise RanksDiffer, everywhere, unless all ranks give the same JSON."""
        told = self.all_gather_json(mine)
        if any(other != told[0] for other in told):
            raise RanksDiffer(
                f"the run's processes differ in {what} ({told}): they must run the same version "
                "with the same settings and files, on devices of one kind"
            )

    @contextmanager
    def main_process_first(self) -> Iterator[None]:
        """The chief goes through the block before anybody else does, however long it takes."""
        if not self.is_main_process:
            self._meet()
        yield
        if self.is_main_process and self.world > 1:
            self._meet()

    def _meet(self) -> None:
        with _nobody_lost():
            dist.monitored_barrier(self._host, _LONG_PATIENCE)

    # ---------------------------------------------------------------------------------- leaving

    def claim_failure(self) -> bool:
        """Whether no rank has failed before; all that fail alike say so only once."""
        if self._store is None:
            return True
        try:
            return bool(self._store.add("failed", 1) == 1)
        except RuntimeError:  # whoever held the store is gone, and cannot have told
            return True

    def destroy(self) -> None:
        """Part from the others in good order."""
        if self.world > 1:
            dist.destroy_process_group()

    def _reduced(self, numbers: Tensor) -> Tensor:
        """Their sum over all ranks, in their own place."""
        group = self._host if numbers.device.type == "cpu" else None
        with _nobody_lost():
            dist.all_reduce(numbers, group=group)
        return numbers


SINGLE_PROCESS = Ranks()


def join(seat: TorchrunEnv | None, device: str) -> Ranks:
    """Meet the other processes that torchrun has started; `device` may name one for each.

    Raises RankLost if they do not come, and DeviceLost if this machine lacks the device.
    """
    if seat is None:
        return Ranks(device=device.split(",", maxsplit=1)[0])
    mine = pick_device(seat.own(device))
    if seat.world == 1:
        return Ranks(device=str(mine))
    use_device(mine)
    with _nobody_lost():
        store, rank, world = next(rendezvous("env://", timeout=PATIENCE))
        dist.init_process_group(
            backend="nccl" if mine.type == "cuda" else "gloo",
            store=PrefixStore("group", store),
            rank=rank,
            world_size=world,
            timeout=PATIENCE,
        )
        host = dist.group.WORLD
        if mine.type == "cuda":
            host = dist.new_group(backend="gloo", timeout=PATIENCE)
    return Ranks(rank, world, str(mine), PrefixStore("run", store), host)


def checksum(parameters: Sequence[Tensor]) -> str:
    """A number that differs, but for a rare accident, where a bit of any of these differs."""
    sums = [each.detach().view(torch.int32).sum(dtype=torch.int64) for each in parameters]
    factors = torch.arange(1, 2 * len(sums), 2)
    return f"{(torch.stack(sums).cpu() * factors).sum().item():x}"


def _at_once(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """All of them in order, about `_AT_ONCE` elements at a time."""
    some: list[nn.Parameter] = []
    for parameter in parameters:
        some.append(parameter)
        if sum(each.numel() for each in some) >= _AT_ONCE:
            yield some
            some = []
    if some:
        yield some


@contextmanager
def _nobody_lost() -> Iterator[None]:
    """Errors of a conversation mean that somebody is gone, or has not come in time.

    But for those of this process's own device, which keep their type.
    """
    try:
        yield
    except RuntimeError as error:
        if device_error(error) is not None or says_no_memory(str(error)):
            raise
        rank = os.environ.get("RANK")
        raise RankLost(f"process {rank} has lost another one of its run: {error}") from error
