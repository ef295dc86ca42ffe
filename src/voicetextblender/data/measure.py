"""What a row measures: its clips opened where their length is not given, its wordings rendered."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from voicetextblender.audio.lengths import HOP_LENGTH
from voicetextblender.chat.clips import count_samples
from voicetextblender.chat.conversation import AudioPart, Conversation, TextPart
from voicetextblender.chat.render import Renderer
from voicetextblender.data.guarded import Failure
from voicetextblender.data.readers.source import RawRow, Source
from voicetextblender.errors import AudioError, ChatTemplateError, VoiceTextBlenderError, describe
from voicetextblender.units import samples_to_seconds, seconds_to_samples

COLUMNS = np.dtype(
    [
        ("file", np.int32),
        ("line", np.int32),
        ("offset", np.int64),
        ("num_bytes", np.int32),
        ("num_clips", np.int32),
        ("num_samples", np.int64),
        ("longest_clip", np.int32),
        ("num_tokens", np.int32),
        ("num_spare", np.int32),
        ("num_audio_tokens", np.int32),
        ("num_supervised", np.int32),
    ]
)
"""Per row: its place in the files; all samples of its clips and those of the longest, at 16 kHz; its tokens in its
longest wording, audio placeholders included; by how many its shortest wording is shorter; its audio placeholders alone;
its supervised tokens."""

LONGEST_CLIP = seconds_to_samples(24 * 3600)
"""Samples; what is said to be longer has a broken header, and would take as much memory as it promises."""

TOO_MANY_TOKENS = "more tokens than max_conversation_tokens"
CLIP_TOO_LONG = "a clip longer than max_clip_s"
NO_CONVERSATION = "no usable conversation"
NO_AUDIO = "no usable audio"
NOT_RENDERED = "the chat template refuses it"
STUCK = "no end within the time limit"
DIED = "the decoder ends the process"
UNEXPECTED = "an unexpected error"


@dataclass(frozen=True)
class Geometry:
    """How many audio placeholder tokens a clip takes.

    Args:
        num_audio_tokens: from samples at 16 kHz; integers only. Must be picklable where workers are spawned.
        fingerprint: names the function, so that a cached index of another geometry is not taken.
    """

    num_audio_tokens: Callable[[int], int]
    fingerprint: str

    @cached_property
    def shortest_clip(self) -> int:
        """Samples at 16 kHz of the shortest clip that takes a token."""
        return bisect_left(range(LONGEST_CLIP), 1, key=self.num_audio_tokens)


class Limits(NamedTuple):
    """What a usable row stays within."""

    max_conversation_tokens: int
    max_clip_s: float


class Drop(NamedTuple):
    """A row that training does not see: number of its line, kind of reason, the whole reason, and its place."""

    line: int
    reason: str
    text: str
    file: int = 0
    offset: int = 0
    num_bytes: int = 0


def beyond_limits(num_tokens: int, longest_clip: int, limits: Limits, where: str) -> tuple[str, str] | None:
    """Why a row is not usable though nothing is wrong with it, in short and in full; None if it is usable.

    Args:
        longest_clip: samples at 16 kHz.
    """
    if num_tokens > limits.max_conversation_tokens:
        found, expected = f"{num_tokens} tokens", f"a conversation has at most {limits.max_conversation_tokens}"
        fix = "Split it, or raise data.max_conversation_tokens"
        return TOO_MANY_TOKENS, describe(where, found, expected, fix)
    if longest_clip > seconds_to_samples(limits.max_clip_s):
        found = f"a clip of {samples_to_seconds(longest_clip):.1f} s"
        expected = f"a clip has at most {limits.max_clip_s:.1f} s"
        return CLIP_TOO_LONG, describe(where, found, expected, "Split it, or raise data.max_clip_s")
    return None


class Ruler:
    """Makes the rows of an index. Wordings are rendered once for all rows that are asked in the same words."""

    def __init__(self, source: Source, renderer: Renderer, geometry: Geometry) -> None:
        self.source = source
        self.renderer = renderer
        self.geometry = geometry
        self._spreads: dict[tuple[Any, ...], tuple[int, int]] = {}

    def __call__(self, raw: RawRow) -> tuple[int, ...]:
        """One row of the index."""
        where = self.source.where(raw.line, raw.file)
        wordings = self.source.wordings(raw)
        num_samples = [
            measure_clip(clip, self.geometry, f"{where} turn {number}")
            for number, turn in enumerate(wordings[0].turns, start=1)
            for clip in turn.clips
        ]
        num_audio_tokens = [self.geometry.num_audio_tokens(count) for count in num_samples]
        rendered = self.renderer.render(wordings[0], num_audio_tokens, require_supervision=True, where=where)
        below, above = self._spread(wordings, num_audio_tokens, len(rendered.token_ids), where)
        num_tokens = (len(rendered.token_ids) + above, below + above, sum(num_audio_tokens))
        num_supervised = int(rendered.supervision_mask.sum())
        place = (raw.file, raw.line, raw.offset, len(raw.content))
        return (*place, len(num_samples), sum(num_samples), max(num_samples, default=0), *num_tokens, num_supervised)

    def _spread(
        self, wordings: tuple[Conversation, ...], num_audio_tokens: list[int], length: int, where: str
    ) -> tuple[int, int]:
        """By how many tokens the shortest and the longest wording differ from the first, which has `length`."""
        if len(wordings) == 1:
            return 0, 0
        asked = tuple(_words_of_prompt(one) for one in wordings)
        if asked not in self._spreads:
            renders = (self.renderer.render(one, num_audio_tokens, where=where) for one in wordings)
            lengths = [len(rendered.token_ids) for rendered in renders]
            self._spreads[asked] = length - min(lengths), max(lengths) - length
        return self._spreads[asked]


def _words_of_prompt(conversation: Conversation) -> tuple[Any, ...]:
    """All but the answers and the clips: what tells apart the wordings of a row."""
    return tuple(
        (turn.role, *(part.text if isinstance(part, TextPart) else None for part in turn.parts))
        for turn in conversation.turns
        if turn.role != "assistant"
    )


def measure_clip(clip: AudioPart, geometry: Geometry, where: str) -> int:
    """Samples of a clip at 16 kHz; the file is opened only if its duration is not given."""
    num_samples = count_samples(clip, where)
    shortest = max(HOP_LENGTH, geometry.shortest_clip)
    if num_samples < shortest:
        found = f"audio '{clip.path}' is {num_samples} samples long"
        expected = f"the encoder takes at least {shortest} samples ({1e3 * samples_to_seconds(shortest):.0f} ms)"
        raise AudioError(describe(where, found, expected, "Remove it, or give a longer segment"))
    if num_samples > LONGEST_CLIP:
        found = f"audio '{clip.path}' is said to be {samples_to_seconds(num_samples) / 3600:.4g} h long"
        raise AudioError(describe(where, found, "a clip has at most 24 h", "Make the file again, or mend its duration"))
    return num_samples


def reason_of(error: VoiceTextBlenderError) -> str:
    """The short reason under which a row that was refused with `error` is counted."""
    if isinstance(error, AudioError):
        return NO_AUDIO
    return NOT_RENDERED if isinstance(error, ChatTemplateError) else NO_CONVERSATION


def drop_row(raw: RawRow, error: VoiceTextBlenderError) -> Drop:
    """A row that was refused with `error`."""
    return Drop(raw.line, reason_of(error), str(error), raw.file, raw.offset, len(raw.content))


def drop_stuck(raw: RawRow, where: str, failure: Failure) -> Drop:
    """A row at which a process hung or died."""
    reason, text = describe_failure(failure, where, "the row")
    return Drop(raw.line, reason, text, raw.file, raw.offset, len(raw.content))


def describe_failure(failure: Failure, where: str, subject: str) -> tuple[str, str]:
    """The short reason and the whole one of what hung, or ended its process."""
    expected, fix = "a row is read and decoded at once", "Make the audio again, or remove it"
    return STUCK if failure.is_late else DIED, describe(where, f"{subject} {failure.found}", expected, fix)
