"""Two ranks on this machine, joined in the way that `torchrun` joins them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import torch
import torch.multiprocessing as mp

from voicetextblender.train.distributed import join_ranks


def run_on_two_ranks(function: Callable[..., None], *arguments: Any) -> None:
    """Run `function(ranks, *arguments)` on both; an error on either is raised here."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_run_rank, (port, function, arguments), nprocs=2)


def _run_rank(rank: int, port: int, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with join_ranks("cpu") as ranks:
        function(ranks, *arguments)
