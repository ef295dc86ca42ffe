"""The largest microbatch that a machine holds: worst cases are tried, each in a process of its own."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from voicetextblender.batch import Batch
from voicetextblender.errors import RunError, VoiceTextBlenderError, describe
from voicetextblender.model.build import Composite, build_composite
from voicetextblender.model.trainable import trainable_parameters
from voicetextblender.train.config import TrainConfig
from voicetextblender.train.distributed import join_ranks
from voicetextblender.train.optim import build_optimizer
from voicetextblender.train.parallel import prepare_model
from voicetextblender.train.step import batch_losses
from voicetextblender.train.worst_batch import describe_batch, sizes, worst_batches

if TYPE_CHECKING:
    from voicetextblender.train.recipe import Recipe

GIB = 2**30
SAFE_SHARE = 0.9
"""Of the memory that is free: pieces between tensors, and what other programs come to need, take the rest."""
FINEST = 8
"""The search ends where the next larger budget tried would be less than 1/8 larger."""


class Trial(NamedTuple):
    """What came of one budget.

    Args:
        tokens: the budget, `data.max_tokens_per_microbatch`.
        shape: rows, tokens and audio of the microbatch that is nearly all audio.
        peak: bytes at most, or None where it ended before the peak was known.
        seconds: of the slower of the two worst microbatches, forward and backward.
        fits: whether the peak stayed below the limit.
    """

    tokens: int
    shape: str
    peak: int | None
    seconds: float | None
    fits: bool


def find_batch(recipe: Recipe, memory_gib: float | None = None) -> Iterator[Trial]:
    """Try budgets, doubled while they fit and then between the largest that fits and the smallest that does not.

    Memory is that of one GPU, or of this machine, with the whole model on it. Nothing that runs here dies of a try:
    each is a process of its own under a limit.

    Args:
        memory_gib: the limit; else `SAFE_SHARE` of what is free.

    Raises:
        RunError: not even the smallest budget fits.
        VoiceTextBlenderError: models that cannot be used.
    """
    limit = int(memory_gib * GIB) if memory_gib else free_memory(recipe)
    return search(lambda tokens: try_in_process(with_budget(recipe, tokens), limit), list(sizes(recipe.data)))


def search(try_budget: Callable[[int], Trial], budgets: list[int]) -> Iterator[Trial]:
    """Every trial on the way; the largest that fits is the result.

    Raises:
        RunError: not even the first of `budgets` fits.
    """
    good, bad = 0, None
    for tokens in budgets:
        yield (trial := try_budget(tokens))
        if not trial.fits:
            bad = tokens
            break
        good = tokens
    if not good:
        found = f"a microbatch of {budgets[0]:,} tokens, the longest conversation, does not fit"
        fix = "Lower data.max_conversation_tokens and data.max_clip_s, or give it more memory"
        raise RunError(describe("--find-batch", found, "memory for one conversation", fix))
    while bad is not None and bad - good > max(1, good // FINEST):
        middle = (good + bad) // 2
        yield (trial := try_budget(middle))
        good, bad = (middle, bad) if trial.fits else (good, middle)


def with_budget(recipe: Recipe, tokens: int) -> Recipe:
    """The recipe with another `data.max_tokens_per_microbatch`."""
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"max_tokens_per_microbatch": tokens})})


def free_memory(recipe: Recipe) -> int:
    """`SAFE_SHARE` of the bytes that are free on the device of the recipe."""
    with join_ranks(recipe.train.device) as ranks:
        if ranks.device.type == "cuda":
            return int(torch.cuda.mem_get_info(ranks.device)[0] * SAFE_SHARE)
    lines = Path("/proc/meminfo").read_text().splitlines()
    available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    return int(available * SAFE_SHARE)


def try_in_process(recipe: Recipe, limit: int) -> Trial:
    """Try the recipe's own budget in a new process that cannot take more than `limit` bytes.

    Raises:
        VoiceTextBlenderError: models that cannot be used.
    """
    context = get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(recipe, limit, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        answer = ours.recv()
    except EOFError:  # the process ended without a word: the system took it
        answer = Trial(recipe.data.max_tokens_per_microbatch, "ended by the system", None, None, fits=False)
    process.join()
    if isinstance(answer, Exception):
        raise answer
    assert isinstance(answer, Trial)
    return answer


def _answer(recipe: Recipe, limit: int, pipe: Connection) -> None:
    """What the process does: send a trial, or the error that is no lack of memory."""
    try:
        pipe.send(try_here(recipe, limit))
    except VoiceTextBlenderError as error:
        pipe.send(error)


def try_here(recipe: Recipe, limit: int) -> Trial:
    """Run the worst microbatches of the recipe's own budget in this process, which cannot take more than `limit`."""
    shape, tokens = "the model itself", recipe.data.max_tokens_per_microbatch
    with join_ranks(recipe.train.device) as ranks:
        _limit_memory(ranks.device, limit)
        try:
            composite = build_composite(recipe.model, recipe.seed)
            batches = worst_batches(recipe.data, composite.num_audio_tokens)
            shape = describe_batch(batches["audio"])
            prepare_model(composite, recipe.train, ranks, recipe.data.pack)
            seconds = run_worst_steps(composite, list(batches.values()), recipe.train, ranks.device)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return Trial(tokens, shape, None, None, fits=False)
        peak = peak_memory(ranks.device)
    return Trial(tokens, shape, peak, seconds, fits=peak <= limit)


def run_worst_steps(composite: Composite, batches: list[Batch], config: TrainConfig, device: torch.device) -> float:
    """Two steps of a model that is on `device`: forward and backward of each microbatch, and an update.

    In the second the optimizer has its state.

    Returns:
        Seconds of the slowest microbatch.
    """
    parameters = trainable_parameters(composite.model.train())
    optimizer = build_optimizer(parameters, config.optim)
    slowest = 0.0
    for _ in range(2):
        for batch in batches:
            start = time.perf_counter()
            losses = batch_losses(composite, batch.to(device), config)
            losses.mean().backward()
            losses.detach().sum().item()  # waits for the GPU
            slowest = max(slowest, time.perf_counter() - start)
        torch.nn.utils.clip_grad_norm_(list(parameters.values()), config.optim.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return slowest


def _limit_memory(device: torch.device, limit: int) -> None:
    """Let this process fail to allocate beyond `limit` bytes, long before the machine has none left."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), device)
    elif sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def is_out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed: on a GPU, on the processor, or in Python itself."""
    told = str(error)
    is_told = "DefaultCPUAllocator" in told or "can't allocate memory" in told or "bad alloc" in told
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or is_told


def peak_memory(device: torch.device) -> int:
    """Bytes that this process has held at most, on the GPU or on the machine."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
