"""Figures of what a training reads: by source, by kind, by language."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from voicetextblender.data.blend import BLOCK_SIZE, Blend
from voicetextblender.data.index import SourceIndex
from voicetextblender.data.survey import Survey
from voicetextblender.units import SAMPLING_RATE


@dataclass(frozen=True)
class Group:
    """Usable rows that have something in common.

    Args:
        share: of the conversations that training draws, between 0 and 1.
        supervised_share: of their supervised tokens.
        longest_clip_s: 0 where there is no clip.
    """

    name: str
    num_rows: int
    hours: float
    num_tokens: int
    num_supervised: int
    longest_num_tokens: int
    longest_clip_s: float
    share: float
    supervised_share: float


@dataclass(frozen=True)
class SourceGroup(Group):
    """All usable rows of one source.

    Args:
        groups: names of the groups around it, from the outermost.
        weight: as the recipe has it, beside its siblings.
        first_share: of the conversations drawn before any source is used up, between 0 and 1.
        epochs: how often each row was drawn by the last step.
        last_step: the one, from 0, after which none of its rows comes; None if the run does not get there.
        drops: rows that training leaves out, by reason.
    """

    groups: tuple[str, ...]
    weight: float
    first_share: float
    epochs: float
    last_step: int | None
    drops: dict[str, int]


@dataclass(frozen=True)
class Stats:
    """The same rows grouped in three ways; each group in the order in which it first comes.

    Args:
        num_steps: that are looked at.
        num_steps_of_data: until every source is used up; None for no end.
    """

    num_steps: int
    num_steps_of_data: int | None
    sources: tuple[SourceGroup, ...]
    kinds: tuple[Group, ...]
    languages: tuple[Group, ...]


def measure_stats(
    indexes: Sequence[SourceIndex], surveys: Sequence[Survey], blend: Blend, conversations_per_step: int, num_steps: int
) -> Stats:
    """Figures of all sources of a blend, in its order."""
    num_steps_of_data = None if blend.num_draws is None else blend.num_draws // conversations_per_step
    num_draws = conversations_per_step * (num_steps if num_steps_of_data is None else min(num_steps, num_steps_of_data))
    drawn = count_draws(blend, num_draws)
    rows = _Rows(indexes, surveys, blend, drawn)
    last_draws = {name: draws for name, draws in blend.used_up.items() if draws <= num_draws}
    number = np.repeat(np.arange(len(indexes)), [len(index) for index in indexes])
    sources = tuple(
        SourceGroup(
            **vars(rows.group(index.name, number == i)),
            groups=blend.groups[i],
            weight=blend.weights[i],
            first_share=blend.shares[i],
            last_step=(last_draws[index.name] - 1) // conversations_per_step if index.name in last_draws else None,
            epochs=float(drawn[i] / len(index)),
            drops=index.drops,
        )
        for i, index in enumerate(indexes)
    )
    kinds, languages = (
        tuple(rows.group(name, column == name) for name in dict.fromkeys(column.tolist()))
        for column in (rows.task, rows.language)
    )
    return Stats(num_steps, num_steps_of_data, sources, kinds, languages)


def count_draws(blend: Blend, num_draws: int) -> NDArray[np.int64]:
    """How many of the first `num_draws` draws fall on each source."""
    whole = num_draws // BLOCK_SIZE * BLOCK_SIZE
    rest = np.bincount(blend.draws(whole, num_draws).source, minlength=len(blend.names))
    return blend.num_drawn(whole) + rest


class _Rows:
    """The usable rows of all sources, one after the other, as columns."""

    def __init__(
        self, indexes: Sequence[SourceIndex], surveys: Sequence[Survey], blend: Blend, drawn: NDArray[np.int64]
    ) -> None:
        assert [len(index) for index in indexes] == [len(survey) for survey in surveys]
        self.task = np.concatenate([survey.task for survey in surveys])
        self.language = np.concatenate([survey.language for survey in surveys])
        self.num_tokens = np.concatenate([index.num_tokens for index in indexes])
        self.num_supervised = np.concatenate([index.num_supervised for index in indexes])
        self.num_samples = np.concatenate([index.num_samples for index in indexes])
        self.longest_clip = np.concatenate(
            [longest_clips(index, survey) for index, survey in zip(indexes, surveys, strict=True)]
        )
        self.chance = np.repeat(drawn / max(1, drawn.sum()) / np.asarray(blend.sizes), blend.sizes)
        """Of one draw of the run to be this row."""
        self.supervised_per_draw = float((self.chance * self.num_supervised).sum())

    def group(self, name: str, chosen: NDArray[np.bool_]) -> Group:
        supervised = float((self.chance * self.num_supervised)[chosen].sum())
        return Group(
            name=name,
            num_rows=int(chosen.sum()),
            hours=float(self.num_samples[chosen].sum() / SAMPLING_RATE / 3600),
            num_tokens=int(self.num_tokens[chosen].sum(dtype=np.int64)),
            num_supervised=int(self.num_supervised[chosen].sum(dtype=np.int64)),
            longest_num_tokens=int(self.num_tokens[chosen].max(initial=0)),
            longest_clip_s=float(self.longest_clip[chosen].max(initial=0) / SAMPLING_RATE),
            share=float(self.chance[chosen].sum()),
            supervised_share=supervised / self.supervised_per_draw if self.supervised_per_draw else 0.0,
        )


def longest_clips(index: SourceIndex, survey: Survey) -> NDArray[np.int64]:
    """Samples of the longest clip of each usable row, 0 without clips."""
    longest = np.zeros(len(index), np.int64)
    np.maximum.at(longest, np.repeat(np.arange(len(index)), index.num_clips), survey.clip_samples)
    return longest
