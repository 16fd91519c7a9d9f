"""Several processes that train one model: who we are among them, and sums over all of them.

Processes are started by PyTorch's elastic launcher (`torchrun`, or `regx ... --devices N`), which tells each one its
rank in the environment. A run without it is a world of one process, in which every function here is trivial.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from regx.errors import RunFailed


@dataclass(frozen=True)
class World:
    """The processes of a run.

    Attributes:
        rank: number of this process, from 0; process 0 alone writes the run folder.
        size: how many processes there are.
        local_rank: number of this process on its machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def writes(self) -> bool:
        """Whether this process writes the run folder and talks to the user."""
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """Sum over all processes; the argument is left as it is."""
        if self.size == 1:
            return value
        total = value.clone()
        dist.all_reduce(total)
        return total

    def any(self, value: Tensor) -> Tensor:
        """Elementwise or of booleans over all processes."""
        return value if self.size == 1 else self.sum(value.to(torch.int32)) > 0

    def agree(self, *flags: bool) -> tuple[bool, ...]:
        """Each flag, true for all processes where it is for one."""
        if self.size == 1:
            return flags
        return tuple(self.any(torch.tensor(flags, device=_device())).tolist())

    def broadcast(self, value: Any) -> Any:
        """What process 0 holds (numbers, strings, tensors on the CPU, and lists and dicts of them)."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=_device())
        return box[0]

    @torch.no_grad()
    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replaces each tensor by its mean over the processes."""
        if self.size > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)
                tensor /= self.size

    @contextlib.contextmanager
    def one_after_the_other(self) -> Iterator[None]:
        """The first process of every machine does something, a download say, before the others of that machine do."""
        if self.local_rank:
            self._wait()
        try:
            yield
        finally:  # after a failure too: the others will fail in the same way, and none waits for ever
            if self.size > 1 and not self.local_rank:
                self._wait()

    def _wait(self) -> None:
        dist.barrier(device_ids=[self.local_rank] if _device().type == "cuda" else None)


def from_environment() -> World:
    """The world as the launcher tells it; one process where there is no launcher."""
    rank, size, local = (int(os.environ.get(name, default)) for name, default in _NAMES)
    return World(rank, size, local)


# Set by `regx.training.launch`: how often it has started the processes anew.
RESTARTS = "REGX_RESTARTS"
_NAMES = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))


def restarted() -> bool:
    """Whether a launcher has started this process anew, after one of the processes died."""
    return any(int(os.environ.get(name, "0")) > 0 for name in (RESTARTS, "TORCHELASTIC_RESTART_COUNT"))


def is_launched() -> bool:
    """Whether `regx ... --devices N` has started this process, and will start it anew."""
    return RESTARTS in os.environ


def is_broken(error: Exception) -> bool:
    """Whether an error says that another process cannot be reached any more."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """The world, whose processes can talk to each other until the end of the block.

    Args:
        device: where this process trains: NCCL between GPUs, gloo between CPUs.

    Raises:
        RunFailed: the other processes cannot be reached.
    """
    world = from_environment()
    if world.size == 1:
        yield world
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        store, _, _ = next(rendezvous("env://"))
        # A launcher that starts processes anew may keep its store, where the addresses of the dead ones still are.
        store = dist.PrefixStore(f"start{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=world.rank, world_size=world.size)
    except (ValueError, RuntimeError) as error:
        raise RunFailed(f"cannot reach the other processes: {' '.join(str(error).split())}") from error
    try:
        yield world
    finally:
        dist.destroy_process_group()


def _device() -> torch.device:
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
