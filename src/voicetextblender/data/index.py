"""The index of a source: where each row lies and how long it is, so that planning never opens a manifest or a clip."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from voicetextblender.chat.conversation import Conversation
from voicetextblender.chat.render import Renderer
from voicetextblender.data.measure import (
    CLIP_TOO_LONG,
    COLUMNS,
    NO_AUDIO,
    TOO_MANY_TOKENS,
    Drop,
    Geometry,
    Limits,
    Ruler,
    beyond_limits,
)
from voicetextblender.data.readers.source import Source
from voicetextblender.data.scan import TIME_LIMIT_S, measure_rows, scan_source
from voicetextblender.errors import DataError, describe, describe_many
from voicetextblender.files import write_atomically
from voicetextblender.progress import Report
from voicetextblender.units import samples_to_seconds, seconds_to_samples

INDEX_VERSION = 4
"""Part of the cache key: to be raised when what the columns mean changes."""
IN_MEMORY_BYTES = 1 << 20
"""Smaller indexes are read; larger ones are memory-mapped."""


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
        is_too_long = self._columns["num_tokens"] > limits.max_conversation_tokens
        is_too_long |= self._columns["longest_clip"] > seconds_to_samples(limits.max_clip_s)
        self._too_long = np.flatnonzero(is_too_long)
        self._left_out: dict[str, NDArray[np.intp]] = {}
        unusable = self._too_long
        for reason, places in self.left_out.items():
            self._left_out[reason] = np.setdiff1d(self._find(places), unusable)
            unusable = np.union1d(unusable, self._left_out[reason])
        # Few rows are not usable, so a list of these takes less than one of the others.
        self._unusable = unusable
        self._usable_before = unusable - np.arange(len(unusable))

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
        return len(self._columns["num_tokens"]) - len(self._unusable)

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def usable_fingerprint(self) -> str:
        """Of which rows are usable."""
        return hashlib.sha256(self._unusable.astype(np.int64).tobytes()).hexdigest()

    @property
    def num_rows(self) -> int:
        """Number of rows of the manifest, usable or not."""
        return len(self._columns["num_tokens"]) + len(self.bad_rows)

    @cached_property
    def num_tokens(self) -> NDArray[np.int32]:
        """Tokens of each usable row in its longest wording, audio placeholders included."""
        return self._take("num_tokens")

    def may_have(self, row: int, num_tokens: int) -> bool:
        """Whether a usable row can have so many tokens in one of its wordings."""
        most, spare = self._values(self._place(row), "num_tokens", "num_spare")
        return most - spare <= num_tokens <= most

    @cached_property
    def num_audio_tokens(self) -> NDArray[np.int32]:
        """Audio placeholder tokens of each usable row, and so encoder frames."""
        return self._take("num_audio_tokens")

    @cached_property
    def num_supervised(self) -> NDArray[np.int32]:
        """Supervised tokens of each usable row."""
        return self._take("num_supervised")

    @cached_property
    def num_samples(self) -> NDArray[np.int64]:
        """Samples at 16 kHz of all clips of each usable row."""
        return self._take("num_samples")

    @cached_property
    def longest_clip(self) -> NDArray[np.int32]:
        """Samples at 16 kHz of the longest clip of each usable row."""
        return self._take("longest_clip")

    @cached_property
    def num_clips(self) -> NDArray[np.int32]:
        """Clips of each usable row."""
        return self._take("num_clips")

    @property
    def hours(self) -> float:
        """Duration of all clips of the usable rows, in hours."""
        return samples_to_seconds(int(self.num_samples.sum())) / 3600

    @property
    def drops(self) -> dict[str, int]:
        """Number of rows that are not usable, by reason; every row of the manifest is usable or counted here."""
        counts = Counter(bad.reason for bad in self.bad_rows)
        num_tokens = self._columns["num_tokens"][self._too_long]
        counts[TOO_MANY_TOKENS] = int((num_tokens > self.limits.max_conversation_tokens).sum())
        counts[CLIP_TOO_LONG] = len(self._too_long) - counts[TOO_MANY_TOKENS]
        counts.update({reason: len(rows) for reason, rows in self._left_out.items()})
        return {reason: count for reason, count in sorted(counts.items()) if count}

    @property
    def dropped(self) -> list[Drop]:
        """Every row that is not usable, in the order of the manifest."""
        long_rows = [self._describe_long(place) for place in self._too_long.tolist()]
        left_out = [
            self._describe_left_out(reason, place) for reason, rows in self._left_out.items() for place in rows.tolist()
        ]
        return sorted([*self.bad_rows, *long_rows, *left_out], key=lambda drop: (drop.file, drop.line))

    def where(self, row: int) -> str:
        """How errors name a usable row."""
        return self.source.where(*self._values(self._place(row), "line", "file"))

    def read(self, row: int, key: int = 0) -> Conversation:
        """The conversation of a usable row, from its place in the file.

        Args:
            key: chooses among the wordings of the row.

        Raises:
            DataError: the manifest was changed since it was indexed and there is no conversation at that place now.
        """
        line, offset, num_bytes, file = self._values(self._place(row), "line", "offset", "num_bytes", "file")
        return self.source.read(line, offset, num_bytes, file, key)

    def _take(self, column: str) -> NDArray[Any]:
        """A column of the usable rows; not copied where all are."""
        values = self._columns[column]
        return np.delete(values, self._unusable) if len(self._unusable) else values

    def _place(self, row: int) -> int:
        """Where a usable row stands in the columns."""
        return row + int(np.searchsorted(self._usable_before, row, side="right"))

    def _values(self, place: int, *columns: str) -> tuple[int, ...]:
        return tuple(int(self._columns[name][place]) for name in columns)

    def _describe_left_out(self, reason: str, place: int) -> Drop:
        line, file = self._values(place, "line", "file")
        fix = "Nothing is wrong with it: held_out of the sources says so"
        text = describe(self.source.where(line, file), reason, "training leaves such rows out", fix)
        return Drop(line, reason, text, file)

    def _describe_long(self, place: int) -> Drop:
        line, file, *lengths = self._values(place, "line", "file", "num_tokens", "longest_clip")
        found = beyond_limits(lengths[0], lengths[1], self.limits, self.source.where(line, file))
        assert found is not None
        return Drop(line, *found, file)


def open_index(
    source: Source,
    renderer: Renderer,
    geometry: Geometry,
    limits: Limits,
    cache_dir: Path,
    *,
    on_bad_row: Literal["stop", "skip"] = "stop",
    num_workers: int = 0,
    time_limit_s: float = TIME_LIMIT_S,
    report: Report | None = None,
) -> SourceIndex:
    """The index of a source, from the cache if manifest, renderer and geometry are those it was built with.

    Args:
        on_bad_row: "stop" refuses a manifest with rows that cannot be used; "skip" drops and counts them. Rows beyond
            `limits` are always dropped and counted.
        num_workers: processes that build an index; it does not depend on them. 0 does it in this one, without a limit.
        time_limit_s: of one row, of which a clip may have to be opened; after that it is a bad row.
        report: told of the bytes that are read while the index is built.

    Raises:
        DataError: an empty manifest, or bad rows (the first five are named, the rest counted).
    """
    stem = index_stem(source, renderer, geometry, cache_dir)
    ruler = Ruler(source, renderer, geometry)
    if not _is_reusable(stem, ruler):
        store_index(stem, *scan_source(ruler, num_workers=num_workers, time_limit_s=time_limit_s, report=report))
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


def index_stem(source: Source, renderer: Renderer, geometry: Geometry, cache_dir: Path) -> Path:
    """Where the index of a source is stored, without suffix: another name for other rows, tokens or geometry."""
    parts = (INDEX_VERSION, source.identity, source.fingerprint, renderer.fingerprint, geometry.fingerprint)
    return cache_dir / f"index-{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}"


def store_index(stem: Path, rows: NDArray[Any], bad_rows: Sequence[Drop]) -> None:
    """Write rows (`COLUMNS`), one column after the other: what planning needs lies side by side."""
    columns = np.zeros((), [(name, COLUMNS[name], (len(rows),)) for name in COLUMNS.names or ()])
    for name in COLUMNS.names or ():
        columns[name] = rows[name]
    with write_atomically(_columns_path(stem)) as temporary, temporary.open("wb") as file:
        np.save(file, columns)
    # Written last: an index without its summary is not taken.
    with write_atomically(_summary_path(stem)) as temporary:
        temporary.write_text(json.dumps({"bad_rows": bad_rows}))


def _is_reusable(stem: Path, ruler: Ruler) -> bool:
    """Whether the index is stored and each row that was refused for its audio still is: a file may have been mended."""
    if not _summary_path(stem).is_file():
        return False
    bad_rows = [Drop(*bad) for bad in json.loads(_summary_path(stem).read_bytes())["bad_rows"]]
    fetch = ruler.source.store.fetch
    refused = [fetch(bad.line, bad.offset, bad.num_bytes, bad.file) for bad in bad_rows if bad.reason == NO_AUDIO]
    return not len(measure_rows(ruler, refused).rows)


def _columns_path(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}.npy")


def _summary_path(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}.json")
