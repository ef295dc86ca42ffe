"""The loader: the batches of any range of steps, made in this process or in workers, the same either way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
from pydantic import Field, model_validator

from voicetextblender.audio.distort import AugmentConfig
from voicetextblender.audio.waveform import Allocate, new_waveform
from voicetextblender.batch import Batch, collate
from voicetextblender.chat.render import Renderer
from voicetextblender.data.augment import Augmenter
from voicetextblender.data.blend import Blend
from voicetextblender.data.blend_config import (
    SourceOrGroup,
    Temperature,
    find_repeated_names,
    make_group,
    walk_sources,
)
from voicetextblender.data.index import SourceIndex, open_index
from voicetextblender.data.measure import Geometry, Limits
from voicetextblender.data.plan import Plan, PlanConfig
from voicetextblender.data.readers.config import SourceConfig
from voicetextblender.data.reading import Example, Failure, Known, RowReader, Tell
from voicetextblender.data.sources import open_source
from voicetextblender.data.splits import find_left_out
from voicetextblender.data.workers import make_steps
from voicetextblender.progress import ShowProgress, show_nothing

CLIP_TIMEOUT_S = 30.0
"""Thousands of times what a clip takes from a local disk; a store behind a network may pause."""


class DataConfig(PlanConfig):
    """What a training reads, and how it is cut into steps.

    Args:
        sources: what is blended: sources, or groups of them.
        temperature: multiplies the weight of each entry of `sources` by its number of usable rows to this power: 1
            shares in proportion to the rows, 0 and null by the weights alone.
        num_workers: processes that read and decode; 0 does it in the training process.
        index_workers: processes that build an index, each row within a time limit; 0 does it in the training process,
            without one.
        augment: how the waveforms of clips are changed; null for not at all.
        on_bad_row: "stop" refuses a manifest with rows that cannot be used; "skip" drops and counts them.
        clip_timeout_s: seconds for a row or a clip in training; one that takes longer is replaced and counted.
        max_failed_share: the run stops when more of the conversations drawn so far (of 1,000 at least) cannot be read.
        cache_dir: folder of the stored indexes and of what readers keep, relative to the working directory.
    """

    sources: tuple[SourceOrGroup, ...] = Field(min_length=1)
    temperature: Temperature = None
    num_workers: int = Field(2, ge=0)
    index_workers: int = Field(2, ge=0)
    augment: AugmentConfig | None = None
    on_bad_row: Literal["stop", "skip"] = "stop"
    clip_timeout_s: float = Field(CLIP_TIMEOUT_S, gt=0)
    max_failed_share: float = Field(0.01, ge=0, le=1)
    cache_dir: str = "runs/cache"

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        if repeated := find_repeated_names(self.sources):
            raise ValueError(f"it should have sources with different names, not {', '.join(repeated)} twice")
        return self

    @property
    def all_sources(self) -> dict[str, SourceConfig]:
        """The sources of all groups by name, in order, those of weight 0 too."""
        return {source.name: source for _, source in walk_sources(self.sources)}


class LoadedStep(NamedTuple):
    """One rank's share of a step.

    Args:
        num_conversations: those that the plan names.
        row_hash: sum of the hashes of the rows that were read; over all ranks it does not depend on their number.
        failures: draws that could not be read.
        waited_s: seconds from when it was asked for until it was there.
    """

    batches: list[Batch]
    num_conversations: int
    row_hash: int
    failures: list[Failure]
    waited_s: float = 0.0


class Loader:
    """Reads what the plan names, decodes the clips, renders and collates. Holds no position and no open file.

    Args:
        reader: of single draws, those of the plan.
        num_workers: processes; the batches do not depend on it.
        clip_timeout_s: of one row, and of each of its clips.
    """

    def __init__(self, reader: RowReader, num_workers: int = 0, clip_timeout_s: float = CLIP_TIMEOUT_S) -> None:
        self.reader = reader
        self.num_workers = num_workers
        self.clip_timeout_s = clip_timeout_s

    @property
    def plan(self) -> Plan:
        """Which conversations make up a step."""
        return self.reader.plan

    @property
    def indexes(self) -> tuple[SourceIndex, ...]:
        """The sources of the plan, in its order."""
        return self.reader.indexes

    def steps(
        self, start: int, stop: int, rank: int = 0, num_ranks: int = 1, known: Known | None = None
    ) -> Iterator[LoadedStep]:
        """The microbatches of one rank for the steps `start` to `stop` (excluded), in order.

        A rank with too few conversations has fewer microbatches than others in that step (`Plan.step`). A draw that
        cannot be read, takes too long or ends its process is replaced by another of its source (`RowReader.read`).

        Args:
            known: draws that are taken as unreadable without a try.

        Raises:
            DataError: a manifest changed since it was indexed; the file and the line are named, also from a worker.
        """
        made = make_steps(
            partial(self._make_arrays, rank=rank, num_ranks=num_ranks),
            range(start, stop),
            num_workers=self.num_workers,
            time_limit_s=self.clip_timeout_s,
            known=known or {},
            where=lambda key: self.indexes[key[0]].where(key[2]),
        )
        asked_at = time.monotonic()
        for arrays, loaded in made:
            batches = [_from_arrays(values) for values in arrays]
            yield loaded._replace(batches=batches, waited_s=time.monotonic() - asked_at)
            asked_at = time.monotonic()

    def load(self, step: int, rank: int = 0, num_ranks: int = 1) -> list[Batch]:
        """The microbatches of one rank for one step, made here and now, without a time limit."""
        return self._make_step(step, {}, lambda key: None, new_waveform, rank, num_ranks).batches

    def _make_arrays(
        self, step: int, known: Known, tell: Tell, allocate: Allocate, rank: int, num_ranks: int
    ) -> tuple[list[dict[str, Any]], LoadedStep]:
        """A step on its way from a worker: its batches apart, as arrays."""
        loaded = self._make_step(step, known, tell, allocate, rank, num_ranks)
        return [_to_arrays(batch) for batch in loaded.batches], loaded._replace(batches=[])

    def _make_step(
        self, step: int, known: Known, tell: Tell, allocate: Allocate, rank: int, num_ranks: int
    ) -> LoadedStep:
        microbatches = self.plan.step(step, rank, num_ranks)
        draws = [draw for rows in microbatches for row in rows for draw in row]
        read = self.reader.read_all(draws, known, tell, allocate)
        failures = [failure for _, failed in read for failure in failed]
        row_hash = sum(self.reader.row_hash(heard.draw) for heard, _ in read if heard)
        examples = {draw: self.reader.render(heard) for draw, (heard, _) in zip(draws, read, strict=True) if heard}
        full = [[[examples[draw] for draw in row if draw in examples] for row in rows] for rows in microbatches]
        batches = [_collate(rows) for rows in full if any(rows)]
        return LoadedStep(batches, len(draws), row_hash, failures)


def build_loader(
    config: DataConfig,
    renderer: Renderer,
    geometry: Geometry,
    seed: int,
    show_progress: ShowProgress = show_nothing,
) -> Loader:
    """Open (or build) the index of every source with a weight, and put blend, plan and loader on top.

    Args:
        show_progress: opens a display of progress for each source that is indexed or split.

    Raises:
        DataError: a source, or a folder of noise or rooms, that cannot be used.
    """
    mix = make_group(config.sources, config.temperature)
    indexes = open_indexes(config, [source.name for source in mix.sources], renderer, geometry, show_progress)
    indexes = leave_out_held_out(config, indexes, show_progress)
    blend = Blend(mix, {index.name: len(index) for index in indexes}, seed)
    augment = Augmenter(indexes, config.augment, geometry, seed, Path(config.cache_dir))
    plan = Plan(indexes, blend, config, augment.speeds)
    reader = RowReader(plan, indexes, renderer, geometry, seed, augment)
    return Loader(reader, config.num_workers, config.clip_timeout_s)


def leave_out_held_out(
    config: DataConfig, indexes: Sequence[SourceIndex], show_progress: ShowProgress = show_nothing
) -> list[SourceIndex]:
    """The indexes without the rows that any source of the recipe holds out, those of weight 0 too."""
    opened = {index.name: index.source for index in indexes}
    if not any(source.held_out for source in config.all_sources.values()):
        return list(indexes)
    cache_dir = Path(config.cache_dir)
    others = (one for one in config.all_sources.values() if one.held_out and one.name not in opened)
    sources = [*opened.values(), *(open_source(one, cache_dir) for one in others)]
    left_out = find_left_out(sources, cache_dir, max(1, config.num_workers), show_progress)
    return [index.leave_out(left_out.get(index.name, {})) for index in indexes]


def open_indexes(
    config: DataConfig,
    names: Sequence[str],
    renderer: Renderer,
    geometry: Geometry,
    show_progress: ShowProgress = show_nothing,
) -> list[SourceIndex]:
    """The index of each of these sources."""
    limits = Limits(config.max_conversation_tokens, config.max_clip_s)
    indexes = []
    cache_dir = Path(config.cache_dir)
    open_one = partial(open_index, on_bad_row=config.on_bad_row, num_workers=config.index_workers)
    for source in (open_source(config.all_sources[name], cache_dir) for name in names):
        with show_progress(f"Indexing {source.name}") as report:
            indexes.append(open_one(source, renderer, geometry, limits, cache_dir, report=report))
    return indexes


def _collate(rows: Sequence[Sequence[Example]]) -> Batch:
    examples = list(chain.from_iterable(rows))
    """The examples of each row; rows without any are left out."""
    return collate(
        [example.rendered for example in examples],
        [example.waveforms for example in examples],
        [example.clip_keys for example in examples],
        [example.task for example in examples],
        [len(row) for row in rows if row],
    )


def _to_arrays(batch: Batch) -> dict[str, Any]:
    """The fields of a batch with an array for each tensor: tensors take their own, slower way between processes."""
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return _change_each(values, lambda value: value.numpy() if isinstance(value, torch.Tensor) else value)


def _from_arrays(values: dict[str, Any]) -> Batch:
    as_tensor = _change_each(values, lambda value: torch.from_numpy(value) if isinstance(value, np.ndarray) else value)
    return Batch(**as_tensor)


def _change_each(values: dict[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    """Apply `change` to each value, and to each member of those that are tuples."""
    return {
        name: tuple(map(change, value)) if isinstance(value, tuple) else change(value) for name, value in values.items()
    }
