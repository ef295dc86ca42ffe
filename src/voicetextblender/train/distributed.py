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

    def sum_gradients(self, parameters: list[Tensor]) -> None:
        """Sum every gradient over all ranks; a rank that did not touch a parameter counts as zero.

        One flat buffer and one call per step, after the last microbatch: unlike hooks on single parameters, this does
        not care which ranks had audio.
        """
        if self.num_ranks == 1:
            return
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = self.sum(torch.cat([gradient.flatten() for gradient in gradients]))
        pieces = flat.split([gradient.numel() for gradient in gradients])
        for parameter, piece in zip(parameters, pieces, strict=True):
            parameter.grad = piece.view_as(parameter)

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
    """Take part in the run: the process group of `torchrun` if it started us, this process alone otherwise."""
    use_cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    num_ranks, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if use_cuda else torch.device("cpu")
    if use_cuda:
        torch.cuda.set_device(chosen)
    if num_ranks > 1:
        dist.init_process_group("nccl" if use_cuda else "gloo")
    try:
        yield Ranks(rank, num_ranks, chosen)
    finally:
        if num_ranks > 1:
            dist.destroy_process_group()
