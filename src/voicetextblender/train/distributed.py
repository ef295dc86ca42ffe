"""Ranks of a run under `torchrun`, or the only one without it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from voicetextblender.errors import RunError, describe

ItemT = TypeVar("ItemT")

HELLO_EVERY_S = 0.05
"""Seconds between two looks of the first rank for those that want to join."""


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

    def sum_number(self, value: float) -> float:
        """`value` summed over all ranks."""
        if self.num_ranks == 1:
            return value
        return float(self.sum(torch.tensor(value, dtype=torch.float64, device=self.device)))

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
        backend = "cpu:gloo,cuda:nccl" if use_cuda else "gloo"
        dist.init_process_group(backend, store=_meet(), rank=rank, world_size=num_ranks)
    try:
        yield Ranks(rank, num_ranks, chosen)
    finally:
        if num_ranks > 1:
            dist.destroy_process_group()


def _meet() -> Store:
    """The store of the launcher, under a name that only the processes of this start know.

    A launcher that starts killed processes again keeps its store, with the addresses in it where the dead were heard
    (Source: pytorch issue 135712). So every process says hello by a new name, until the first rank, which answers to
    each name with its own, has seen that all of this start have heard it.
    """
    store, rank, num_ranks = next(iter(rendezvous("env://")))
    name = uuid4().hex
    if rank > 0:
        store.set(f"hello/{rank}", name)
        name = store.get(f"answer/{name}").decode()
        store.set(f"heard/{name}/{rank}", "")
        return PrefixStore(name, store)
    while not store.check([f"heard/{name}/{other}" for other in range(1, num_ranks)]):
        for hello in [f"hello/{other}" for other in range(1, num_ranks)]:
            if store.check([hello]):
                store.set(f"answer/{store.get(hello).decode()}", name)
        time.sleep(HELLO_EVERY_S)
    return PrefixStore(name, store)


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
