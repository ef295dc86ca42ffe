"""The loader: the batches of any range of steps, made in this process or in workers, the same either way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch.utils.data import DataLoader, Dataset

from voicetextblender.batch import Batch, collate
from voicetextblender.chat.clips import read_clip
from voicetextblender.chat.conversation import Conversation
from voicetextblender.chat.render import Rendered, Renderer
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
from voicetextblender.data.plan import Draw, Microbatch, Plan, PlanConfig
from voicetextblender.data.readers.config import SourceConfig
from voicetextblender.data.sources import open_source
from voicetextblender.data.splits import find_left_out
from voicetextblender.errors import DataError, VoiceTextBlenderError, describe
from voicetextblender.files import derive_seed
from voicetextblender.progress import ShowProgress, show_nothing

PREFETCHED_STEPS = 2
"""Steps that each worker holds ready."""


class DataConfig(PlanConfig):
    """What a training reads, and how it is cut into steps.

    Args:
        sources: what is blended: sources, or groups of them.
        temperature: multiplies the weight of each entry of `sources` by its number of usable rows to this power: 1
            shares in proportion to the rows, 0 and null by the weights alone.
        num_workers: processes that read and decode; 0 does it in the training process.
        index_workers: processes that build an index, each row within a time limit; 0 does it in the training process,
            without one.
        on_bad_row: "stop" refuses a manifest with rows that cannot be used; "skip" drops and counts them.
        cache_dir: folder of the stored indexes and of what readers keep, relative to the working directory.
    """

    sources: tuple[SourceOrGroup, ...] = Field(min_length=1)
    temperature: Temperature = None
    num_workers: int = Field(2, ge=0)
    index_workers: int = Field(2, ge=0)
    on_bad_row: Literal["stop", "skip"] = "stop"
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


class Loader:
    """Reads what the plan names, decodes the clips, renders and collates. Holds no position and no open file.

    Args:
        plan: which conversations make up a step.
        indexes: the sources of the plan, in its order.
        seed: key of the clips' augmentation.
        num_workers: processes; the batches do not depend on it.
    """

    def __init__(
        self,
        plan: Plan,
        indexes: Sequence[SourceIndex],
        renderer: Renderer,
        geometry: Geometry,
        seed: int,
        num_workers: int = 0,
    ) -> None:
        self.plan = plan
        self.indexes = tuple(indexes)
        self.renderer = renderer
        self.geometry = geometry
        self.seed = seed
        self.num_workers = num_workers

    def steps(self, start: int, stop: int, rank: int = 0, num_ranks: int = 1) -> Iterator[list[Batch]]:
        """The microbatches of one rank for the steps `start` to `stop` (excluded), in order.

        A rank with too few conversations has fewer microbatches than others in that step (`Plan.step`).

        Raises:
            DataError: a row or a clip cannot be read; the file and the line are named, also from a worker.
        """
        if self.num_workers == 0:
            for step in range(start, stop):
                yield self.load(step, rank, num_ranks)
            return
        loaded: DataLoader[Any] = DataLoader(
            _Steps(self, rank, num_ranks),
            batch_size=None,
            sampler=range(start, stop),
            num_workers=self.num_workers,
            prefetch_factor=PREFETCHED_STEPS,
            collate_fn=_as_it_is,
            generator=torch.Generator(),  # otherwise a draw is taken from the global one, and resuming would differ
        )
        for batches in loaded:
            if isinstance(batches, VoiceTextBlenderError):
                raise batches
            yield [_from_arrays(arrays) for arrays in batches]

    def load(self, step: int, rank: int = 0, num_ranks: int = 1) -> list[Batch]:
        """The microbatches of one rank for one step, made here and now."""
        return [self._make_batch(rows) for rows in self.plan.step(step, rank, num_ranks) if rows]

    def _make_batch(self, rows: Microbatch) -> Batch:
        draws = list(chain.from_iterable(rows))
        conversations = [self.indexes[draw.source].read(draw.row, self._wording_key(draw)) for draw in draws]
        waveforms = [self._read_clips(*pair) for pair in zip(draws, conversations, strict=True)]
        rendered = [self._render(*triple) for triple in zip(draws, conversations, waveforms, strict=True)]
        keys = [self._clip_keys(draw, len(clips)) for draw, clips in zip(draws, waveforms, strict=True)]
        tasks = [conversation.task for conversation in conversations]
        return collate(rendered, waveforms, keys, tasks, [len(row) for row in rows])

    def _read_clips(self, draw: Draw, conversation: Conversation) -> list[np.ndarray]:
        where = self.indexes[draw.source].where(draw.row)
        return [read_clip(clip, where) for clip in conversation.clips]

    def _render(self, draw: Draw, conversation: Conversation, waveforms: Sequence[np.ndarray]) -> Rendered:
        index = self.indexes[draw.source]
        where = index.where(draw.row)
        num_audio_tokens = [self.geometry.num_audio_tokens(len(waveform)) for waveform in waveforms]
        rendered = self.renderer.render(conversation, num_audio_tokens, where=where)
        if not index.may_have(draw.row, len(rendered.token_ids)):
            found, expected = f"{len(rendered.token_ids)} tokens", f"the index says {index.num_tokens[draw.row]}"
            fix = f"The manifest or its audio was changed meanwhile: start again, or remove '{index.stem.parent}'"
            raise DataError(describe(where, found, expected, fix))
        return rendered

    def _wording_key(self, draw: Draw) -> int:
        """Chooses the words in which this row is asked in this epoch."""
        return derive_seed(self.seed, "wording", self.indexes[draw.source].name, draw.epoch, draw.row)

    def _clip_keys(self, draw: Draw, num_clips: int) -> list[int]:
        """One key of randomness per clip: the same whenever this row comes in this epoch."""
        name = self.indexes[draw.source].name
        return [derive_seed(self.seed, "clip", name, draw.epoch, draw.row, clip) for clip in range(num_clips)]


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
        DataError: a source that cannot be used.
    """
    mix = make_group(config.sources, config.temperature)
    indexes = open_indexes(config, [source.name for source in mix.sources], renderer, geometry, show_progress)
    indexes = leave_out_held_out(config, indexes, show_progress)
    blend = Blend(mix, {index.name: len(index) for index in indexes}, seed)
    return Loader(Plan(indexes, blend, config), indexes, renderer, geometry, seed, config.num_workers)


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


class _Steps(Dataset[Any]):
    """Steps by number, in the form in which they leave a worker."""

    def __init__(self, loader: Loader, rank: int, num_ranks: int) -> None:
        self.loader = loader
        self.rank = rank
        self.num_ranks = num_ranks

    def __getitem__(self, step: int) -> list[dict[str, Any]] | VoiceTextBlenderError:
        # Errors of ours travel as values: raised in a worker they would arrive wrapped in its traceback.
        try:
            return [_to_arrays(batch) for batch in self.loader.load(step, self.rank, self.num_ranks)]
        except VoiceTextBlenderError as error:
            return error


def _as_it_is(value: Any) -> Any:
    return value


def _to_arrays(batch: Batch) -> dict[str, Any]:
    """The fields of a batch, for the way through a pipe, with an array for each tensor.

    Tensors would each take a file descriptor and room in /dev/shm, which may be tiny.
    """
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
