"""The plan: which conversations make up a step, and how each rank cuts its share into microbatches.

A pure function of (recipe, index, seed, step). The number of workers, what ran before and, for the step as a whole,
the number of ranks have no say in it.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from voicetextblender.config import StrictConfig
from voicetextblender.data.blend import Blend


class PlanConfig(StrictConfig):
    """Sizes of steps and microbatches; tokens count audio placeholder tokens too.

    Args:
        conversations_per_step: over all ranks.
        max_tokens_per_microbatch: rows times tokens of the longest row, the padding included.
        max_conversation_tokens: longer conversations are dropped and counted.
        max_clip_s: conversations with a longer clip, in seconds, are dropped and counted.
    """

    conversations_per_step: int = Field(32, ge=1)
    max_tokens_per_microbatch: int = Field(4096, ge=1)
    max_conversation_tokens: int = Field(2048, ge=1)
    max_clip_s: float = Field(40.0, gt=0)

    @model_validator(mode="after")
    def _check_budget(self) -> Self:
        if self.max_conversation_tokens > self.max_tokens_per_microbatch:
            raise ValueError(
                f"it should have max_conversation_tokens ({self.max_conversation_tokens}) at or below "
                f"max_tokens_per_microbatch ({self.max_tokens_per_microbatch})"
            )
        return self


class Draw(NamedTuple):
    """One conversation of a step: source number, epoch and row in it, and its number in the order of the blend."""

    source: int
    epoch: int
    row: int
    position: int


Microbatch = tuple[Draw, ...]


class RowLengths(Protocol):
    """What the plan needs to know of a source: the tokens of each usable row, audio included."""

    @property
    def num_tokens(self) -> NDArray[np.integer]: ...


class Plan:
    """The conversations of every step.

    Args:
        indexes: one per source of the blend, in its order.
        blend: the order of draws; step `s` takes the draws from `s * conversations_per_step` on.
    """

    def __init__(self, indexes: Sequence[RowLengths], blend: Blend, config: PlanConfig) -> None:
        assert len(indexes) == len(blend.names)
        assert all(len(index.num_tokens) == size for index, size in zip(indexes, blend.sizes, strict=True))
        self.indexes = tuple(indexes)
        self.blend = blend
        self.config = config

    def step(self, step: int, rank: int = 0, num_ranks: int = 1) -> tuple[Microbatch, ...]:
        """The microbatches of one rank, longest conversations first, each within the token budget.

        Over the ranks every conversation of the step comes exactly once. All ranks get the same number of microbatches
        (sharded training meets in every one of them); the last ones of a rank are empty only where it has too few
        conversations for that. A single rank never gets an empty one.
        """
        assert 0 <= rank < num_ranks
        draws = self.draws(step)
        lengths = [int(self.indexes[draw.source].num_tokens[draw.row]) for draw in draws]
        shares = _share(lengths, num_ranks)
        budget = self.config.max_tokens_per_microbatch
        cuts = [_cut([lengths[i] for i in share], budget) for share in shares]
        num_microbatches = max(len(cut) for cut in cuts)
        sizes = _spread(cuts[rank], num_microbatches)
        stops = np.cumsum([0, *sizes]).tolist()
        share = shares[rank]
        return tuple(tuple(draws[i] for i in share[start:stop]) for start, stop in pairwise(stops))

    def draws(self, step: int) -> list[Draw]:
        """All conversations of a step in the order of the blend."""
        size = self.config.conversations_per_step
        start = step * size
        columns = self.blend.draws(start, start + size)
        rows = zip(columns.source.tolist(), columns.epoch.tolist(), columns.row.tolist(), strict=True)
        return [Draw(*row, position=start + i) for i, row in enumerate(rows)]


def _share(lengths: Sequence[int], num_ranks: int) -> list[list[int]]:
    """Places of `lengths` per rank, longest first; each goes to the rank that has the fewest tokens so far.

    Source: longest-processing-time scheduling, Graham, Bounds on Multiprocessing Timing Anomalies (1969).
    """
    shares: list[list[int]] = [[] for _ in range(num_ranks)]
    loads = [(0, rank) for rank in range(num_ranks)]
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        load, rank = loads[0]
        shares[rank].append(i)
        heapq.heapreplace(loads, (load + lengths[i], rank))
    return shares


def _cut(lengths: Sequence[int], budget: int) -> list[int]:
    """Rows per microbatch for falling `lengths`: each holds as many as fit beside its longest row."""
    sizes: list[int] = []
    start = 0
    while start < len(lengths):
        assert 0 < lengths[start] <= budget
        sizes.append(min(budget // lengths[start], len(lengths) - start))
        start += sizes[-1]
    return sizes


def _spread(sizes: Sequence[int], num_microbatches: int) -> list[int]:
    """The same rows in `num_microbatches`: the fullest are halved, and if none can be, empty ones follow."""
    spread = list(sizes)
    while len(spread) < num_microbatches and max(spread, default=0) > 1:
        fullest = spread.index(max(spread))
        half = spread[fullest] // 2
        spread[fullest : fullest + 1] = [spread[fullest] - half, half]
    return spread + [0] * (num_microbatches - len(spread))
