"""Draws read from their files; one that cannot be read is replaced by a rule that depends on nothing but the plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import NamedTuple

import numpy as np

from voicetextblender.audio.waveform import Allocate, new_waveform
from voicetextblender.chat.clips import read_clip
from voicetextblender.chat.conversation import AudioPart, Conversation, Part
from voicetextblender.chat.render import Rendered, Renderer
from voicetextblender.data.augment import Augmenter
from voicetextblender.data.index import SourceIndex
from voicetextblender.data.measure import UNEXPECTED, Geometry, reason_of
from voicetextblender.data.plan import Draw, Plan
from voicetextblender.errors import AudioError, DataError, describe
from voicetextblender.files import derive_seed

NUM_CANDIDATES = 1024
"""Rows of a source among which a replacement is sought."""
MAX_REPLACEMENTS = 8
"""How many of them are tried before a conversation is left out."""
HASH_BYTES = 6
"""Of a row: sums over thousands of rows stay within 63 bits."""


class Cause(NamedTuple):
    """Why a row could not be read: in short, for counting, and in full."""

    reason: str
    text: str


Key = tuple[int, int, int]
"""Source, epoch and row of a draw."""
Known = Mapping[Key, Cause]
"""Draws that are known not to be readable, and are not tried again."""
Tell = Callable[[Key], None]
"""Told of each draw before its row is read, before each of its clips is, and before they are changed."""


@dataclass(frozen=True)
class Failure:
    """A draw that could not be read.

    Args:
        key: source, epoch and row.
        where: the place of the row.
        is_planned: the plan named this draw; otherwise it was tried in place of another.
        replaced_by: the place of the row that was taken instead of a planned one; None if it was left out.
    """

    key: Key
    source: str
    where: str
    cause: Cause
    is_planned: bool
    replaced_by: str | None = None


class Row(NamedTuple):
    """A row as a draw has it: its place, and its conversation in the words of this epoch."""

    where: str
    conversation: Conversation


@dataclass(frozen=True)
class Heard:
    """A draw whose clips are decoded.

    Args:
        lengths: samples of each clip as it is in its file.
        waveforms: the clips as they are heard.
    """

    draw: Draw
    row: Row
    lengths: list[int]
    waveforms: list[np.ndarray]


@dataclass(frozen=True)
class Example:
    """A draw, ready to be collated."""

    draw: Draw
    task: str
    rendered: Rendered
    waveforms: list[np.ndarray]
    clip_keys: list[int]


class UnreadableError(Exception):
    """A row that another one has to replace."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(cause.text)
        self.cause = cause


class RowReader:
    """Reads, decodes, augments and renders single draws. Holds no open file.

    Args:
        augment: changes the clips, at the speeds of the plan; None leaves them as they are.
        seed: key of wordings, of all that is done to clips, and of replacements.
    """

    def __init__(
        self,
        plan: Plan,
        indexes: Sequence[SourceIndex],
        renderer: Renderer,
        geometry: Geometry,
        seed: int,
        augment: Augmenter | None = None,
    ) -> None:
        self.plan = plan
        self.indexes = tuple(indexes)
        self.renderer = renderer
        self.geometry = geometry
        self.seed = seed
        self.augment = augment

    def read_all(
        self, draws: Sequence[Draw], known: Known, tell: Tell, allocate: Allocate = new_waveform
    ) -> list[tuple[Heard | None, list[Failure]]]:
        """For each draw itself or its replacement, none if there is none; and the draws that could not be read.

        All rows are read before any clip: in turns, each work would find the processor's caches full of the other's,
        and a row would take thrice as long.

        Args:
            allocate: gives room for the clips.

        Raises:
            DataError: the manifest changed since the index was made.
        """
        rows = {draw: self._read_row(draw, tell) for draw in draws if _key(draw) not in known}
        return [self._read(draw, rows, known, tell, allocate) for draw in draws]

    def _read(
        self, draw: Draw, rows: Mapping[Draw, Row], known: Known, tell: Tell, allocate: Allocate
    ) -> tuple[Heard | None, list[Failure]]:
        failed: list[tuple[Draw, Cause]] = []
        heard = None
        for candidate in self._candidates(draw):
            try:
                if (cause := known.get(_key(candidate))) is not None:
                    raise UnreadableError(cause)
                heard = self._hear(candidate, rows.get(candidate) or self._read_row(candidate, tell), tell, allocate)
                break
            except UnreadableError as error:
                failed.append((candidate, error.cause))
        instead = heard.row.where if heard else None
        return heard, [self._describe(one, cause, draw, instead) for one, cause in failed]

    def render(self, heard: Heard) -> Example:
        """What is collated of a draw; without augmentation it is as long as the index says.

        Raises:
            DataError: the manifest or the lengths of its audio changed since the index was made.
        """
        draw, index = heard.draw, self.indexes[heard.draw.source]
        num_audio_tokens = [self.geometry.num_audio_tokens(len(waveform)) for waveform in heard.waveforms]
        rendered = self.renderer.render(heard.row.conversation, num_audio_tokens, where=heard.row.where)
        added = sum(num_audio_tokens) - sum(map(self.geometry.num_audio_tokens, heard.lengths))
        num_tokens = len(rendered.token_ids) - added
        if not index.may_have(draw.row, num_tokens):
            found, expected = f"{num_tokens} tokens", f"the index says {index.num_tokens[draw.row]}"
            fix = f"The manifest or its audio was changed meanwhile: start again, or remove '{index.stem.parent}'"
            raise DataError(describe(heard.row.where, found, expected, fix))
        keys = self._clip_keys(draw, len(heard.waveforms))
        return Example(draw, heard.row.conversation.task, rendered, heard.waveforms, keys)

    def row_hash(self, draw: Draw) -> int:
        """Of source, epoch and row. The hashes of a step are added up, so that their order does not matter."""
        named = repr((self.indexes[draw.source].name, draw.epoch, draw.row)).encode()
        return int.from_bytes(blake2b(named, digest_size=HASH_BYTES).digest(), "big")

    def show(self, draw: Draw) -> Conversation:
        """The conversation of a draw with its clips as training hears them; as it is where one cannot be read."""
        where, conversation = self._read_row(draw, lambda key: None)
        try:
            clips = [read_clip(clip, where) for clip in conversation.clips]
        except AudioError:
            return conversation
        heard = iter(self._change(draw, clips))
        turns = tuple(
            replace(turn, parts=tuple(_put(heard, part) for part in turn.parts)) for turn in conversation.turns
        )
        return replace(conversation, turns=turns)

    def _candidates(self, draw: Draw) -> Iterator[Draw]:
        """The draw itself, then rows of its source that take no more room, the longest first."""
        yield draw
        index, (room, _) = self.indexes[draw.source], self.plan.length(draw)
        random = np.random.default_rng(derive_seed(self.seed, "replacement", index.name, draw.epoch, draw.row))
        rows = random.integers(len(index), size=NUM_CANDIDATES)
        order = np.argsort(-index.num_tokens[rows], kind="stable")
        others = (draw._replace(row=row) for row in dict.fromkeys(rows[order].tolist()) if row != draw.row)
        fitting = (other for other in others if self.plan.length(other)[0] <= room)
        for _, other in zip(range(MAX_REPLACEMENTS), fitting, strict=False):
            yield other

    def _hear(self, draw: Draw, row: Row, tell: Tell, allocate: Allocate) -> Heard:
        key = _key(draw)
        clips = []
        for clip in row.conversation.clips:
            tell(key)
            try:
                clips.append(read_clip(clip, row.where, allocate))
            except AudioError as error:
                raise UnreadableError(Cause(reason_of(error), str(error))) from error
            except Exception as error:
                raise UnreadableError(Cause(UNEXPECTED, _describe_unexpected(row.where, error))) from error
        tell(key)
        return Heard(draw, row, [len(clip) for clip in clips], self._change(draw, clips))

    def _read_row(self, draw: Draw, tell: Tell) -> Row:
        tell(_key(draw))
        index = self.indexes[draw.source]
        key = derive_seed(self.seed, "wording", index.name, draw.epoch, draw.row)
        return Row(index.where(draw.row), index.read(draw.row, key))

    def _change(self, draw: Draw, clips: list[np.ndarray]) -> list[np.ndarray]:
        return clips if self.augment is None else self.augment(draw, clips, self._clip_keys(draw, len(clips)))

    def _clip_keys(self, draw: Draw, num_clips: int) -> list[int]:
        """One key of randomness per clip: the same whenever this row comes in this epoch."""
        name = self.indexes[draw.source].name
        return [derive_seed(self.seed, "clip", name, draw.epoch, draw.row, clip) for clip in range(num_clips)]

    def _where(self, draw: Draw) -> str:
        return self.indexes[draw.source].where(draw.row)

    def _describe(self, failed: Draw, cause: Cause, planned: Draw, instead: str | None) -> Failure:
        name, is_planned = self.indexes[failed.source].name, failed == planned
        return Failure(_key(failed), name, self._where(failed), cause, is_planned, instead if is_planned else None)


def _key(draw: Draw) -> Key:
    return draw.source, draw.epoch, draw.row


def _describe_unexpected(where: str, error: Exception) -> str:
    found = f"{type(error).__name__}: {error}".rstrip(".")
    return describe(where, found, "a clip is read or refused with a reason", "Look at its file")


def _put(waveforms: Iterator[np.ndarray], part: Part) -> Part:
    """The part with the next waveform, if it is a clip."""
    return replace(part, waveform=next(waveforms)) if isinstance(part, AudioPart) else part
