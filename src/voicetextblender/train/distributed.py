"""Ranks of a run under `torchrun`, or the only one without it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from voicetextblender.errors import RunError, describe

ItemT = TypeVar("ItemT")


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run."""

    rank: int
    num_ranks: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes logs, checkpoints and the model."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """`values` summed over all ranks, in place."""
        if self.num_ranks > 1:
            dist.all_reduce(values)
        return values

    def gather(self, items: list[ItemT]) -> list[ItemT]:
        """The picklable items of all ranks, in the order of the ranks."""
        if self.num_ranks == 1:
            return items
        gathered: list[list[ItemT] | None] = [None] * self.num_ranks
        dist.all_gather_object(gathered, items)
        return [item for group in gathered for item in group or []]

    @contextmanager
    def first_rank_first(self) -> Iterator[None]:
        """Run a block on the first rank, then on the others: what the first one cached, they find.

        Where it fails on the first rank the others go on, and fail there too instead of waiting for ever.
        """
        if not self.is_first:
            self.wait()
        try:
            yield
        finally:
            if self.is_first:
                self.wait()

    def wait(self) -> None:
        """Return when every rank has come here."""
        if self.num_ranks > 1:
            dist.barrier()


@contextmanager
def join_ranks(device: str) -> Iterator[Ranks]:
    """Take part in the run: the process group of `torchrun` if it started us, this process alone otherwise.

    Raises:
        RunError: There is no GPU for this process.
    """
    use_cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    num_ranks, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    chosen = _choose_gpu() if use_cuda else torch.device("cpu")
    if num_ranks > 1:
        dist.init_process_group("cpu:gloo,cuda:nccl" if use_cuda else "gloo")
    try:
        yield Ranks(rank, num_ranks, chosen)
    finally:
        if num_ranks > 1:
            dist.destroy_process_group()


def _choose_gpu() -> torch.device:
    """The GPU of this process among those of its machine, one for each."""
    here, wanted = torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if wanted > here:
        found = f"processes on this machine: {wanted}, GPUs: {here}"
        fix = f"Start torchrun with --nproc-per-node {here}" if here else "Set it to cpu, or train on another machine"
        raise RunError(describe("train.device", found, "a GPU for each process", fix))
    chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(chosen)
    return chosen
