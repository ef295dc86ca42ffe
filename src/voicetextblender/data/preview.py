"""What a run will see, known before it starts: sampled steps of the plan, rows that come twice, rows to look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from voicetextblender.audio.groups import group_by_length
from voicetextblender.chat.conversation import Conversation
from voicetextblender.data.index import SourceIndex
from voicetextblender.data.plan import Draw, Microbatch, Plan
from voicetextblender.data.survey import Survey
from voicetextblender.progress import Report

NUM_SAMPLED_STEPS = 64
MAX_STEPS_FOR_ROWS = 200
"""How far rows to look at are sought."""


class Spread(NamedTuple):
    """A figure over the sampled steps."""

    least: float
    mean: float
    most: float


@dataclass(frozen=True)
class Simulation:
    """The plan in sampled steps.

    Args:
        tokens_per_step: audio placeholder tokens included, padding not.
        microbatches_per_rank: as every rank has them.
        padding: share of padding in the rows of the microbatches, each as wide as the longest.
        unused_budget: share of `max_tokens_per_microbatch` that no token of a conversation fills.
        encoder_padding: share of padding in the encoder's frames, clips grouped as the model groups them; None if
            there are no clips.
        imbalance: by how much the work of the busiest rank is above the mean of the ranks, as a share of it.
        shares: of each kind, in the conversations and in the supervised tokens, between 0 and 1.
    """

    steps: tuple[int, ...]
    num_ranks: int
    tokens_per_step: Spread
    supervised_per_step: Spread
    microbatches_per_rank: Spread
    padding: float
    unused_budget: float
    encoder_padding: float | None
    imbalance: Spread
    shares: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Repeats:
    """Usable training rows of a source whose like came before, in this source or in one before it.

    Args:
        same_words: all that is written and said is the same, but perhaps in another voice.
        same_clips: of these, the clips are the same too.
    """

    name: str
    num_rows: int
    same_words: int
    same_clips: int


@dataclass(frozen=True)
class Overlap:
    """Rows of an evaluation that training holds too.

    Args:
        same_words: all that is written and said is the same.
        same_speech: what is said in the clips is the same, whatever is written around it.
        same_clips: at least one clip is the same segment of the same file.
    """

    name: str
    num_rows: int
    same_words: int
    same_speech: int
    same_clips: int
    num_unread: int


class ShownRow(NamedTuple):
    """A row to look at, and when it first comes."""

    kind: str
    source: str
    where: str
    step: int
    num_tokens: int
    num_supervised: int
    conversation: Conversation


def simulate(
    plan: Plan,
    indexes: Sequence[SourceIndex],
    surveys: Sequence[Survey],
    num_audio_tokens: Callable[[int], int],
    *,
    num_steps: int,
    num_ranks: int = 1,
    report: Report | None = None,
) -> Simulation:
    """At most `NUM_SAMPLED_STEPS` of the first `num_steps` steps, evenly spread; fewer where the data ends before.

    Raises:
        DataError: the data is not enough for one step.
    """
    plan.check_length(1)
    num_steps = num_steps if plan.num_steps is None else min(num_steps, plan.num_steps)
    steps = tuple(np.unique(np.linspace(0, num_steps - 1, min(num_steps, NUM_SAMPLED_STEPS)).astype(int)).tolist())
    clips = [_ClipLengths(*pair) for pair in zip(indexes, surveys, strict=True)]
    tokens, supervised, counts, imbalances = [], [], [], []
    totals: Counter[str] = Counter()
    conversations: Counter[str] = Counter()
    learned: Counter[str] = Counter()
    for done, step in enumerate(steps, start=1):
        ranks = plan.ranks(step, num_ranks)
        draws = [draw for microbatches in ranks for rows in microbatches for row in rows for draw in row]
        for microbatch in (rows for microbatches in ranks for rows in microbatches):
            totals.update(_measure(microbatch, plan, clips, num_audio_tokens))
        for draw in draws:
            kind = str(surveys[draw.source].task[draw.row])
            conversations[kind] += 1
            learned[kind] += int(indexes[draw.source].num_supervised[draw.row])
        tokens.append(sum(plan.length(draw)[0] for draw in draws))
        supervised.append(sum(int(indexes[draw.source].num_supervised[draw.row]) for draw in draws))
        counts.append(len(ranks[0]))
        imbalances.append(_imbalance(ranks, plan))
        if report is not None:
            report(done, len(steps))
    shares = {
        kind: (conversations[kind] / conversations.total(), learned[kind] / max(1, learned.total()))
        for kind in sorted(conversations)
    }
    budget = plan.config.max_tokens_per_microbatch * num_ranks * sum(counts)
    return Simulation(
        steps=steps,
        num_ranks=num_ranks,
        tokens_per_step=_spread(tokens),
        supervised_per_step=_spread(supervised),
        microbatches_per_rank=_spread(counts),
        padding=1 - totals["tokens"] / totals["area"],
        unused_budget=1 - totals["tokens"] / budget,
        encoder_padding=1 - totals["frames"] / totals["padded_frames"] if totals["frames"] else None,
        imbalance=_spread(imbalances),
        shares=shares,
    )


def count_repeats(indexes: Sequence[SourceIndex], surveys: Sequence[Survey]) -> list[Repeats]:
    """Of each source, in the order given."""
    words, exact = (_seen_before([getattr(survey, name) for survey in surveys]) for name in ("words", "exact"))
    return [
        Repeats(index.name, len(index), int(words[i].sum()), int(exact[i].sum())) for i, index in enumerate(indexes)
    ]


def count_overlap(training: Sequence[Survey], evaluation: Mapping[str, Survey]) -> list[Overlap]:
    """Of each evaluation, in the order given."""
    words, spoken, clips = (
        np.unique(np.concatenate([getattr(survey, name) for survey in training]))
        for name in ("words", "spoken", "clips")
    )
    spoken = spoken[spoken != 0]
    overlaps = []
    for name, survey in evaluation.items():
        row_of_clip = np.repeat(np.arange(len(survey)), survey.num_clips)
        num_with_clips = len(np.unique(row_of_clip[np.isin(survey.clips, clips)]))
        same_words, same_speech = (
            int(np.isin(*pair).sum()) for pair in ((survey.words, words), (survey.spoken, spoken))
        )
        overlaps.append(Overlap(name, len(survey), same_words, same_speech, num_with_clips, survey.num_unread))
    return overlaps


def choose_rows(
    plan: Plan,
    indexes: Sequence[SourceIndex],
    surveys: Sequence[Survey],
    num_per_kind: int,
    show: Callable[[Draw], Conversation],
) -> list[ShownRow]:
    """The first rows of each kind that training meets, by kind in the order in which they come.

    Args:
        show: the conversation of a draw as training hears it.
    """
    kinds = dict.fromkeys(str(kind) for survey in surveys for kind in dict.fromkeys(survey.task.tolist()))
    chosen: dict[str, list[ShownRow]] = {kind: [] for kind in kinds}
    for step in range(min(MAX_STEPS_FOR_ROWS, plan.num_steps or MAX_STEPS_FOR_ROWS)):
        if all(len(rows) == num_per_kind for rows in chosen.values()):
            break
        for draw in plan.draws(step):
            kind = str(surveys[draw.source].task[draw.row])
            if len(chosen[kind]) < num_per_kind:
                index = indexes[draw.source]
                counts = plan.length(draw)[0], int(index.num_supervised[draw.row])
                chosen[kind].append(ShownRow(kind, index.name, index.where(draw.row), step, *counts, show(draw)))
    return [row for rows in chosen.values() for row in rows]


class _ClipLengths:
    """Samples of the clips of a row."""

    def __init__(self, index: SourceIndex, survey: Survey) -> None:
        self._samples = survey.clip_samples
        self._stops = np.cumsum(index.num_clips)
        self._starts = self._stops - index.num_clips

    def __call__(self, row: int) -> list[int]:
        return self._samples[self._starts[row] : self._stops[row]].tolist()


def _measure(
    microbatch: Microbatch, plan: Plan, clips: Sequence[_ClipLengths], num_audio_tokens: Callable[[int], int]
) -> dict[str, int]:
    """Tokens and encoder frames of a microbatch, without and with padding."""
    widths = [sum(plan.length(draw)[0] for draw in row) for row in microbatch]
    samples = [length for row in microbatch for draw in row for length in clips[draw.source](draw.row)]
    groups = group_by_length(samples)
    return {
        "tokens": sum(widths),
        "area": len(widths) * max(widths, default=0),
        "frames": sum(map(num_audio_tokens, samples)),
        "padded_frames": sum(len(group) * num_audio_tokens(max(samples[i] for i in group)) for group in groups),
    }


def _imbalance(ranks: Sequence[Sequence[Microbatch]], plan: Plan) -> float:
    costs = [plan.cost([draw for rows in share for row in rows for draw in row]) for share in ranks]
    return max(costs) * len(costs) / sum(costs) - 1


def _spread(values: Sequence[float]) -> Spread:
    return Spread(float(min(values)), float(np.mean(values)), float(max(values)))


def _seen_before(columns: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Of each entry of each column, whether the same stood before it in any column."""
    whole = np.concatenate(columns)
    _, first = np.unique(whole, return_index=True)
    seen = np.ones(len(whole), bool)
    seen[first] = False
    return np.split(seen, np.cumsum([len(column) for column in columns])[:-1])
