"""The index of a source: where each row lies and how long it is, so that planning never opens a manifest or a clip."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from voicetextblender.audio.lengths import HOP_LENGTH
from voicetextblender.chat.clips import count_samples
from voicetextblender.chat.conversation import AudioPart, Conversation, TextPart
from voicetextblender.chat.render import Renderer
from voicetextblender.data.readers.source import RawRow, Source
from voicetextblender.errors import (
    AudioError,
    ChatTemplateError,
    DataError,
    VoiceTextBlenderError,
    describe,
    describe_many,
)
from voicetextblender.files import write_atomically
from voicetextblender.progress import Report
from voicetextblender.units import samples_to_seconds, seconds_to_samples

INDEX_VERSION = 3
"""Part of the cache key: to be raised when what the columns mean changes."""
ROWS_PER_REPORT = 256
LONGEST_CLIP = seconds_to_samples(24 * 3600)
"""Samples; what is said to be longer has a broken header, and would take as much memory as it promises."""
IN_MEMORY_BYTES = 1 << 20
"""Smaller indexes are read; larger ones are memory-mapped."""

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

TOO_MANY_TOKENS = "more tokens than max_conversation_tokens"
CLIP_TOO_LONG = "a clip longer than max_clip_s"
NO_CONVERSATION = "no usable conversation"
NO_AUDIO = "no usable audio"
NOT_RENDERED = "the chat template refuses it"


@dataclass(frozen=True)
class Geometry:
    """How many audio placeholder tokens a clip takes.

    Args:
        num_audio_tokens: from samples at 16 kHz; integers only. Must be picklable where workers are spawned.
        fingerprint: names the function, so that a cached index of another geometry is not taken.
    """

    num_audio_tokens: Callable[[int], int]
    fingerprint: str


class Limits(NamedTuple):
    """What a usable row stays within."""

    max_conversation_tokens: int
    max_clip_s: float


class Drop(NamedTuple):
    """A row that training does not see: number of its line, kind of reason, the whole reason, number of its file."""

    line: int
    reason: str
    text: str
    file: int = 0


LeftOut = Mapping[str, NDArray[np.int64]]
"""Rows that training leaves out though nothing is wrong with them: by reason their places, [rows 2], file and line, in
the order of the manifest."""


class SourceIndex:
    """Lengths and places of the usable rows of one source, numbered from 0 in the order of the manifest.

    Pickles as a path: another process maps the same file.

    Args:
        source: the reader of the rows.
        stem: the stored index, without suffix; made by `open_index`.
        limits: rows beyond them are not usable.
        left_out: further rows that are not.
    """

    def __init__(self, source: Source, stem: Path, limits: Limits, left_out: LeftOut | None = None) -> None:
        self.source = source
        self.stem = stem
        self.limits = limits
        self.left_out = left_out or {}
        self.bad_rows = tuple(Drop(*bad) for bad in json.loads(_summary_path(stem).read_bytes())["bad_rows"])
        is_small = _columns_path(stem).stat().st_size < IN_MEMORY_BYTES
        self._columns: NDArray[Any] = np.load(_columns_path(stem), mmap_mode=None if is_small else "r")
        self._too_many_tokens = self._columns["num_tokens"] > limits.max_conversation_tokens
        self._clip_too_long = self._columns["longest_clip"] > seconds_to_samples(limits.max_clip_s)
        is_usable = ~(self._too_many_tokens | self._clip_too_long)
        self._left_out: dict[str, NDArray[np.intp]] = {}
        for reason, places in self.left_out.items():
            rows = self._find(places)
            self._left_out[reason] = rows[is_usable[rows]]
            is_usable[rows] = False
        self._usable = np.flatnonzero(is_usable)

    def __reduce__(self) -> tuple[type[SourceIndex], tuple[Source, Path, Limits, LeftOut]]:
        return SourceIndex, (self.source, self.stem, self.limits, self.left_out)

    def leave_out(self, left_out: LeftOut) -> SourceIndex:
        """The same index without these rows."""
        return SourceIndex(self.source, self.stem, self.limits, left_out) if left_out else self

    def _find(self, places: NDArray[np.int64]) -> NDArray[np.intp]:
        """Numbers of the rows, usable or not, at places in the order of the manifest; those that are there."""
        ours = self._columns["file"].astype(np.int64) << 32 | self._columns["line"]
        wanted = places[:, 0] << 32 | places[:, 1]
        rows = np.searchsorted(ours, wanted)
        return rows[ours[np.minimum(rows, len(ours) - 1)] == wanted] if len(ours) else rows[:0]

    def __len__(self) -> int:
        """Number of usable rows."""
        return len(self._usable)

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def num_rows(self) -> int:
        """Number of rows of the manifest, usable or not."""
        return len(self._columns) + len(self.bad_rows)

    @cached_property
    def num_tokens(self) -> NDArray[np.int32]:
        """Tokens of each usable row in its longest wording, audio placeholders included."""
        return np.asarray(self._columns["num_tokens"][self._usable])

    def may_have(self, row: int, num_tokens: int) -> bool:
        """Whether a usable row can have so many tokens in one of its wordings."""
        columns = self._columns[self._usable[row]]
        return bool(columns["num_tokens"] - columns["num_spare"] <= num_tokens <= columns["num_tokens"])

    @cached_property
    def num_audio_tokens(self) -> NDArray[np.int32]:
        """Audio placeholder tokens of each usable row, and so encoder frames."""
        return np.asarray(self._columns["num_audio_tokens"][self._usable])

    @cached_property
    def num_supervised(self) -> NDArray[np.int32]:
        """Supervised tokens of each usable row."""
        return np.asarray(self._columns["num_supervised"][self._usable])

    @cached_property
    def num_samples(self) -> NDArray[np.int64]:
        """Samples at 16 kHz of all clips of each usable row."""
        return np.asarray(self._columns["num_samples"][self._usable])

    @cached_property
    def longest_clip(self) -> NDArray[np.int32]:
        """Samples at 16 kHz of the longest clip of each usable row."""
        return np.asarray(self._columns["longest_clip"][self._usable])

    @cached_property
    def num_clips(self) -> NDArray[np.int32]:
        """Clips of each usable row."""
        return np.asarray(self._columns["num_clips"][self._usable])

    @property
    def hours(self) -> float:
        """Duration of all clips of the usable rows, in hours."""
        return samples_to_seconds(int(self.num_samples.sum())) / 3600

    @property
    def drops(self) -> dict[str, int]:
        """Number of rows that are not usable, by reason; every row of the manifest is usable or counted here."""
        counts = Counter(bad.reason for bad in self.bad_rows)
        counts[TOO_MANY_TOKENS] = int(self._too_many_tokens.sum())
        counts[CLIP_TOO_LONG] = int((self._clip_too_long & ~self._too_many_tokens).sum())
        counts.update({reason: len(rows) for reason, rows in self._left_out.items()})
        return {reason: count for reason, count in sorted(counts.items()) if count}

    @property
    def dropped(self) -> list[Drop]:
        """Every row that is not usable, in the order of the manifest."""
        long_rows = [
            self._describe_long(i) for i in np.flatnonzero(self._too_many_tokens | self._clip_too_long).tolist()
        ]
        left_out = [
            self._describe_left_out(reason, i) for reason, rows in self._left_out.items() for i in rows.tolist()
        ]
        return sorted([*self.bad_rows, *long_rows, *left_out], key=lambda drop: (drop.file, drop.line))

    def where(self, row: int) -> str:
        """How errors name a usable row."""
        columns = self._columns[self._usable[row]]
        return self.source.where(int(columns["line"]), int(columns["file"]))

    def read(self, row: int, key: int = 0) -> Conversation:
        """The conversation of a usable row, from its place in the file.

        Args:
            key: chooses among the wordings of the row.

        Raises:
            DataError: the manifest was changed since it was indexed and there is no conversation at that place now.
        """
        columns = self._columns[self._usable[row]]
        line, offset, num_bytes, file = (int(columns[name]) for name in ("line", "offset", "num_bytes", "file"))
        return self.source.read(line, offset, num_bytes, file, key)

    def _describe_left_out(self, reason: str, i: int) -> Drop:
        line, file = int(self._columns[i]["line"]), int(self._columns[i]["file"])
        fix = "Nothing is wrong with it: held_out of the sources says so"
        text = describe(self.source.where(line, file), reason, "training leaves such rows out", fix)
        return Drop(line, reason, text, file)

    def _describe_long(self, i: int) -> Drop:
        columns = self._columns[i]
        line, file = int(columns["line"]), int(columns["file"])
        lengths = int(columns["num_tokens"]), int(columns["longest_clip"])
        found = beyond_limits(*lengths, self.limits, self.source.where(line, file))
        assert found is not None
        return Drop(line, *found, file)


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


def open_index(
    source: Source,
    renderer: Renderer,
    geometry: Geometry,
    limits: Limits,
    cache_dir: Path,
    *,
    on_bad_row: Literal["stop", "skip"] = "stop",
    report: Report | None = None,
) -> SourceIndex:
    """The index of a source, from the cache if manifest, renderer and geometry are those it was built with.

    Args:
        on_bad_row: "stop" refuses a manifest with rows that cannot be used; "skip" drops and counts them. Rows beyond
            `limits` are always dropped and counted.
        report: told of the bytes that are read while the index is built.

    Raises:
        DataError: an empty manifest, or bad rows (the first five are named, the rest counted).
    """
    stem = cache_dir / _cache_key(source, renderer, geometry)
    if not _is_reusable(stem):
        columns, bad_rows = _scan(source, renderer, geometry, report)
        _store(stem, columns, bad_rows)
    index = SourceIndex(source, stem, limits)
    if not index.num_rows:
        raise DataError(describe(source.config.path, "0 rows", "a manifest has at least 1", "Fill it, or remove it"))
    if index.bad_rows and on_bad_row == "stop":
        raise DataError(describe_many([bad.text for bad in index.bad_rows]))
    return index


def fingerprint_sources(indexes: Mapping[str, SourceIndex]) -> dict[str, dict[str, Any]]:
    """What a run was trained on, for its folder: per source path and fingerprint, and what was used and dropped."""
    return {
        name: {
            "path": index.source.config.path,
            "sha256": index.source.fingerprint,
            "rows": index.num_rows,
            "kept": len(index),
            "drops": index.drops,
            "hours": round(index.hours, 4),
        }
        for name, index in indexes.items()
    }


def _scan(
    source: Source, renderer: Renderer, geometry: Geometry, report: Report | None
) -> tuple[NDArray[Any], list[Drop]]:
    ends = np.cumsum([0, *source.store.sizes]).tolist()
    measure = Ruler(source, renderer, geometry)
    rows: list[tuple[int, ...]] = []
    bad_rows: list[Drop] = []
    for raw in source.scan():
        try:
            rows.append(measure(raw))
        except VoiceTextBlenderError as error:
            bad_rows.append(Drop(raw.line, reason_of(error), str(error), raw.file))
        if report is not None and (len(rows) + len(bad_rows)) % ROWS_PER_REPORT == 0:
            report(ends[raw.file] + raw.offset, ends[-1])
    if report is not None:
        report(ends[-1], ends[-1])
    return np.array(rows, dtype=COLUMNS), bad_rows


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
    if num_samples < HOP_LENGTH or geometry.num_audio_tokens(num_samples) < 1:
        found = f"audio '{clip.path}' is {num_samples} samples long"
        expected = f"one audio frame takes {HOP_LENGTH} samples (10 ms)"
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


def _cache_key(source: Source, renderer: Renderer, geometry: Geometry) -> str:
    parts = (INDEX_VERSION, source.identity, source.fingerprint, renderer.fingerprint, geometry.fingerprint)
    return f"index-{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}"


def _is_reusable(stem: Path) -> bool:
    """Whether the index is stored and no row of it was refused for its audio: such a file may have been mended."""
    if not _summary_path(stem).is_file():
        return False
    bad_rows = json.loads(_summary_path(stem).read_bytes())["bad_rows"]
    return not any(reason == NO_AUDIO for _, reason, *_ in bad_rows)


def _store(stem: Path, columns: NDArray[Any], bad_rows: list[Drop]) -> None:
    with write_atomically(_columns_path(stem)) as temporary, temporary.open("wb") as file:
        np.save(file, columns)
    # Written last: an index without its summary is not taken.
    with write_atomically(_summary_path(stem)) as temporary:
        temporary.write_text(json.dumps({"bad_rows": bad_rows}))


def _columns_path(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}.npy")


def _summary_path(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}.json")
