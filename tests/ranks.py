"""Ranks on this machine, joined in the way that `torchrun` joins them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from multiprocessing import forkserver
from typing import Any

import torch
import torch.multiprocessing as mp

from voicetextblender.train.distributed import join_ranks

PRELOADED = ["voicetextblender.train.loop", "tests.tiny"]
"""Imported once, in the process that all ranks are forked from."""


def run_on_two_ranks(function: Callable[..., None], *arguments: Any) -> None:
    """Run `function(ranks, *arguments)` on both; an error on either is raised here."""
    run_on_ranks(2, function, *arguments)


def run_on_ranks(num_ranks: int, function: Callable[..., None], *arguments: Any) -> None:
    """Run `function(ranks, *arguments)` on `num_ranks` ranks; an error on any is raised here."""
    start_ranks(num_ranks, _join_and_run, function, arguments)


def start_ranks(num_ranks: int, function: Callable[..., None], *arguments: Any) -> None:
    """Run `function(*arguments)` in `num_ranks` processes that know their ranks but have not joined."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    forkserver.set_forkserver_preload(PRELOADED)
    mp.start_processes(_run_rank, (num_ranks, port, function, arguments), nprocs=num_ranks, start_method="forkserver")


def _run_rank(rank: int, num_ranks: int, port: int, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(num_ranks), "LOCAL_WORLD_SIZE": str(num_ranks)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    function(*arguments)


def _join_and_run(function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    with join_ranks("cpu") as ranks:
        function(ranks, *arguments)
