"""What the rows of a source are, beside their lengths: kind, language, words and clips. Nothing is decoded."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voicetextblender.chat.clips import count_samples
from voicetextblender.chat.conversation import AudioPart, Conversation, Turn
from voicetextblender.data.index import SourceIndex
from voicetextblender.data.readers.source import Source
from voicetextblender.errors import VoiceTextBlenderError
from voicetextblender.files import write_atomically
from voicetextblender.progress import Report

ROWS_PER_TASK = 2048
_VERSION = 1
"""Part of the name of a stored survey: to be raised when what the columns mean changes."""
NO_LANGUAGE = "-"
"""The language of rows that name none."""

Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class Survey:
    """Rows in order, as columns; of the clips one entry each, in the order of the rows.

    Args:
        task: names of the kinds.
        language: codes, or `NO_LANGUAGE`.
        words: hash of all that is written and, where transcribed, said, without case and punctuation; a clip that is
            not transcribed counts as itself.
        exact: the same, and which clips they are.
        spoken: hash of what is said in all clips; 0 where there is none, or not all are transcribed.
        num_clips: of each row.
        clip_samples: lengths at 16 kHz.
        clips: hash of file and segment.
        num_unread: rows left out because they are no conversations.
    """

    task: NDArray[np.str_]
    language: NDArray[np.str_]
    words: Hashes
    exact: Hashes
    spoken: Hashes
    num_clips: NDArray[np.int64]
    clip_samples: NDArray[np.int64]
    clips: Hashes
    num_unread: int = 0

    def __len__(self) -> int:
        return len(self.task)


_COLUMNS = tuple(one.name for one in fields(Survey) if one.name != "num_unread")


def survey_indexes(
    indexes: Sequence[SourceIndex], num_workers: int = 1, report: Report | None = None
) -> tuple[Survey, ...]:
    """The usable rows of each source, kept beside its index.

    Args:
        num_workers: processes; 1 does it in this one.
        report: told of rows that are read.

    Raises:
        DataError: a manifest was changed since it was indexed.
    """
    paths = list(map(_place_of, indexes))
    missing = [number for number, path in enumerate(paths) if not path.is_file()]
    ranges = [
        (number, range(start, min(start + ROWS_PER_TASK, len(indexes[number]))))
        for number in missing
        for start in range(0, len(indexes[number]), ROWS_PER_TASK)
    ]
    work = partial(_survey_range, tuple(indexes))
    parts: dict[int, list[Survey]] = {number: [] for number in missing}
    done, total = 0, sum(len(indexes[number]) for number in missing)
    with open_mapper(num_workers) as mapped:
        for (number, rows), part in zip(ranges, mapped(work, ranges), strict=True):
            parts[number].append(part)
            done += len(rows)
            if report is not None:
                report(done, total)
    for number in missing:
        _store(_join(parts[number]), paths[number])
    return tuple(map(_load, paths))


def survey_source(source: Source, max_rows: int | None = None) -> Survey:
    """The rows of a source without an index, from the first on; those that cannot be read are counted."""
    num_unread = 0

    def conversations() -> Iterator[tuple[str, Conversation]]:
        nonlocal num_unread
        for raw in islice(source.scan(), max_rows):
            try:
                yield source.where(raw.line, raw.file), source.parse(raw)
            except VoiceTextBlenderError:
                num_unread += 1

    survey = _survey(conversations(), measure_clips=False)
    return replace(survey, num_unread=num_unread)


def normalise(text: str) -> str:
    """Words alone: letters and digits in one case, all else a single space."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))


class open_mapper:
    """`map` over processes, in order, or in this process."""

    def __init__(self, num_workers: int) -> None:
        self._pool = ProcessPoolExecutor(num_workers) if num_workers > 1 else None

    def __enter__(self) -> Callable[..., Iterable[Any]]:
        return self._pool.map if self._pool else map

    def __exit__(self, *error: object) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)


def _place_of(index: SourceIndex) -> Path:
    """Where the survey of an index is kept: another name for other rows, tasks, or absolute paths of clips."""
    parts = (_VERSION, index.stem.name, index.usable_fingerprint, index.source.config.task, os.getcwd())
    return index.stem.with_name(f"survey-{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}.npz")


def _store(survey: Survey, path: Path) -> None:
    with write_atomically(path) as temporary:
        np.savez(temporary, **{name: getattr(survey, name) for name in _COLUMNS})


def _load(path: Path) -> Survey:
    with np.load(path) as columns:
        return Survey(**{name: columns[name] for name in _COLUMNS})


def _survey_range(indexes: Sequence[SourceIndex], place: tuple[int, range]) -> Survey:
    number, rows = place
    index = indexes[number]
    return _survey((index.where(row), index.read(row)) for row in rows)


def _survey(conversations: Iterable[tuple[str, Conversation]], measure_clips: bool = True) -> Survey:
    tasks: list[str] = []
    languages: list[str] = []
    words: list[int] = []
    exact: list[int] = []
    spoken: list[int] = []
    num_clips: list[int] = []
    clip_samples: list[int] = []
    clip_hashes: list[int] = []
    for where, conversation in conversations:
        clips = [_clip_name(clip) for clip in conversation.clips]
        text = "\n".join(_words(turn) for turn in conversation.turns)
        said = [clip.transcript for clip in conversation.clips]
        tasks.append(conversation.task)
        languages.append(conversation.language or NO_LANGUAGE)
        words.append(_hash(text))
        exact.append(_hash("\n".join([text, *clips])))
        spoken.append(_hash(normalise(" ".join(map(str, said)))) if said and None not in said else 0)
        num_clips.append(len(clips))
        clip_hashes += map(_hash, clips)
        if measure_clips:
            clip_samples += [count_samples(clip, where) for clip in conversation.clips]
    return Survey(
        task=np.array(tasks, str),
        language=np.array(languages, str),
        words=np.array(words, np.uint64),
        exact=np.array(exact, np.uint64),
        spoken=np.array(spoken, np.uint64),
        num_clips=np.array(num_clips, np.int64),
        clip_samples=np.array(clip_samples, np.int64),
        clips=np.array(clip_hashes, np.uint64),
    )


def _words(turn: Turn) -> str:
    """Role and words of a turn, with transcripts where the clips stand."""
    parts = [
        part.text if not isinstance(part, AudioPart) else f" {part.transcript or _clip_name(part)} "
        for part in turn.parts
    ]
    return f"{turn.role} {normalise(''.join(parts))}"


def _clip_name(clip: AudioPart) -> str:
    """Which clip it is: told by its place, or by its content where that is in memory."""
    content = clip.waveform.tobytes() if clip.waveform is not None else clip.encoded
    if content is not None or clip.path is None:
        return f"{hashlib.sha256(content or b'').hexdigest()} {clip.start_s} {clip.duration_s}"
    return repr(replace(clip, path=os.path.abspath(clip.path), transcript=None))


def _hash(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") or 1


def _join(parts: Sequence[Survey]) -> Survey:
    if not parts:
        return _survey([])
    columns: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS}
    return Survey(**columns)
