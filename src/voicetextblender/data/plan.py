"""The plan: which conversations make up a step, and how each rank packs its share into rows and microbatches.

A pure function of (recipe, index, seed, step). The number of workers, what ran before and, for the step as a whole,
the number of ranks have no say in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from voicetextblender.config import StrictConfig
from voicetextblender.data.blend import Blend, Draws
from voicetextblender.data.full_steps import FullSteps, take_rows
from voicetextblender.data.packing import count_microbatches, pack, pack_alone, split
from voicetextblender.data.sharing import Ints, conversation_cost, share_among_ranks
from voicetextblender.data.speed import Speeds
from voicetextblender.errors import DataError, describe


class PlanConfig(StrictConfig):
    """Sizes of steps and microbatches; tokens count audio placeholder tokens too.

    Args:
        conversations_per_step: over all ranks.
        microbatches_per_step: over all ranks, nearly full; each step then has as many conversations as fill them, and
            conversations_per_step says nothing. A multiple of the number of ranks leaves none of them idle.
        max_tokens_per_microbatch: rows times tokens of the longest row, the padding included.
        pack: conversations stand side by side in a row and do not see each other; false gives each a row of its own.
        max_conversation_tokens: longer conversations are dropped and counted.
        max_clip_s: conversations with a longer clip, in seconds, are dropped and counted.
    """

    conversations_per_step: int = Field(32, ge=1)
    microbatches_per_step: int | None = Field(None, ge=1)
    max_tokens_per_microbatch: int = Field(4096, ge=1)
    pack: bool = True
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


Row = tuple[Draw, ...]
"""Conversations that stand side by side in a row of a batch."""
Microbatch = tuple[Row, ...]


class RowLengths(Protocol):
    """What the plan needs to know of a source: of each usable row its tokens, audio included, and those of audio."""

    @property
    def num_tokens(self) -> NDArray[np.integer]: ...

    @property
    def num_audio_tokens(self) -> NDArray[np.integer]: ...


class Plan:
    """The conversations of every step.

    Args:
        indexes: one per source of the blend, in its order.
        blend: the order of draws; step `s` takes the draws from `s * conversations_per_step` on.
        speeds: how fast the clips of a draw are heard; as they are when None.
    """

    def __init__(
        self, indexes: Sequence[RowLengths], blend: Blend, config: PlanConfig, speeds: Speeds | None = None
    ) -> None:
        assert len(indexes) == len(blend.names)
        assert all(len(index.num_tokens) == size for index, size in zip(indexes, blend.sizes, strict=True))
        self.indexes = tuple(indexes)
        self.blend = blend
        self.config = config
        self.speeds = speeds
        self._full_steps: FullSteps | None = None
        if config.microbatches_per_step is not None:
            tokens_per_step = config.microbatches_per_step * config.max_tokens_per_microbatch
            self._full_steps = FullSteps(blend, [index.num_tokens for index in indexes], tokens_per_step)

    @property
    def num_steps(self) -> int | None:
        """Whole steps until every source is used up; None for no end."""
        num_draws = self.blend.num_draws
        if num_draws is None:
            return None
        if self._full_steps is not None:
            return num_draws // self._full_steps.num_draws * self._full_steps.num_steps
        return num_draws // self.config.conversations_per_step

    def check_length(self, num_steps: int) -> None:
        """Refuse a run that is longer than the data lasts.

        Raises:
            DataError: it is.
        """
        if self.num_steps is not None and num_steps > self.num_steps:
            found, expected = f"{num_steps:,} steps", f"the data lasts {self.num_steps:,} steps, by max_epochs"
            fix = "Train so many steps, raise max_epochs, or leave one source without"
            raise DataError(describe("train.steps", found, expected, fix))

    def step(self, step: int, rank: int = 0, num_ranks: int = 1) -> tuple[Microbatch, ...]:
        """The microbatches of one rank, longest rows first, each within the token budget.

        Over the ranks every conversation of the step comes exactly once, and their work is about equal. All ranks get
        the same number of microbatches (sharded training meets in every one of them); the last ones of a rank are empty
        only where it has too few conversations for that. A single rank never gets an empty one.
        """
        assert 0 <= rank < num_ranks
        shares = self._share(step, num_ranks)
        return shares[rank].pack(self.config, max(share.count(self.config) for share in shares))

    def ranks(self, step: int, num_ranks: int) -> list[tuple[Microbatch, ...]]:
        """What `step` gives each rank."""
        shares = self._share(step, num_ranks)
        most = max(share.count(self.config) for share in shares)
        return [share.pack(self.config, most) for share in shares]

    def draws(self, step: int) -> list[Draw]:
        """All conversations of a step in the order of the blend."""
        return _name(*self._draws(step))

    @property
    def conversations_per_step(self) -> int:
        """Over all ranks; where steps are full, on average."""
        if self._full_steps is None:
            return self.config.conversations_per_step
        return round(self._full_steps.num_draws / self._full_steps.num_steps)

    def length(self, draw: Draw) -> tuple[int, int]:
        """Tokens of a conversation at the speed of its draw, and how many of them are audio; never less than it has."""
        if self.speeds is not None:
            return self.speeds.length(draw.source, draw.epoch, draw.row)
        index = self.indexes[draw.source]
        return int(index.num_tokens[draw.row]), int(index.num_audio_tokens[draw.row])

    def cost(self, draws: Sequence[Draw]) -> int:
        """Work of conversations together."""
        lengths = np.array([self.length(draw) for draw in draws], np.int64).reshape(-1, 2)
        return int(conversation_cost(lengths[:, 0], lengths[:, 1]).sum())

    def _draws(self, step: int) -> tuple[Draws, Ints]:
        """The draws of a step, and the number of each in the order of the blend."""
        if self._full_steps is not None:
            return self._full_steps.draws(step)
        size = self.config.conversations_per_step
        positions = np.arange(step * size, (step + 1) * size)
        return self.blend.draws(step * size, (step + 1) * size), positions

    def _share(self, step: int, num_ranks: int) -> list[_Share]:
        columns, positions = self._draws(step)
        draws = _name(columns, positions)
        if self.speeds is None:
            num_tokens = take_rows([index.num_tokens for index in self.indexes], columns)
            num_audio_tokens = take_rows([index.num_audio_tokens for index in self.indexes], columns)
        else:
            num_tokens, num_audio_tokens = np.array([self.length(draw) for draw in draws], np.int64).T
        places = share_among_ranks(num_tokens, num_audio_tokens, num_ranks, self.config.max_tokens_per_microbatch)
        return [_Share([draws[i] for i in share], num_tokens[share], num_audio_tokens[share]) for share in places]


def _name(columns: Draws, positions: Ints) -> list[Draw]:
    rows = zip(columns.source.tolist(), columns.epoch.tolist(), columns.row.tolist(), positions.tolist(), strict=True)
    return [Draw(*row) for row in rows]


class _Share(NamedTuple):
    """What one rank has to do in a step, with the lengths of each conversation."""

    draws: list[Draw]
    num_tokens: Ints
    num_audio_tokens: Ints

    def count(self, config: PlanConfig) -> int:
        """The fewest microbatches that hold it."""
        if not config.pack:
            return len(pack_alone(self.num_tokens, config.max_tokens_per_microbatch))
        return count_microbatches(self.num_tokens, self.num_audio_tokens, config.max_tokens_per_microbatch)

    def pack(self, config: PlanConfig, num_microbatches: int) -> tuple[Microbatch, ...]:
        """So many microbatches; the last ones are empty where there are fewer conversations."""
        budget = config.max_tokens_per_microbatch
        if config.pack:
            packed = pack(self.num_tokens, self.num_audio_tokens, budget, num_microbatches)
        else:
            packed = pack_alone(self.num_tokens, budget)
        microbatches = split(packed, num_microbatches)
        return tuple(tuple(tuple(self.draws[i] for i in row) for row in rows) for rows in microbatches)
