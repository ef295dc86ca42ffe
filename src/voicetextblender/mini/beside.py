"""Two things at once: some work in another process while the body runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

import torch

from voicetextblender.errors import RunError, describe
from voicetextblender.processes import end_with_parent


@contextmanager
def beside(work: Callable[..., None], *arguments: Any) -> Iterator[None]:
    """Do `work` in another process while the body runs, one thread each, and end with the later of the two.

    Two cores do two things at once in less time than one thing after the other with both.

    Raises:
        RunError: the other process failed.
    """
    process = get_context("spawn").Process(target=_work_alone, args=(work, *arguments))
    process.start()
    try:
        with num_threads(1):
            yield
    finally:
        process.join()
    if process.exitcode != 0:
        raise RunError(
            describe(
                work.__name__.strip("_").replace("_", " "),
                f"its process ended with status {process.exitcode}",
                "status 0",
                "Its last words are above; the same command goes on from where it was",
            )
        )


def _work_alone(work: Callable[..., None], *arguments: Any) -> None:
    end_with_parent()
    torch.set_num_threads(1)
    work(*arguments)


@contextmanager
def num_threads(number: int) -> Iterator[None]:
    """So many threads for torch, here and now."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
