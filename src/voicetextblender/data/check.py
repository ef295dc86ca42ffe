"""Every row and every clip of sources tried before a training meets them; whatever is wrong is counted and named."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from voicetextblender.chat.clips import read_clip
from voicetextblender.chat.conversation import AudioPart, Conversation
from voicetextblender.chat.render import Renderer
from voicetextblender.data.guarded import Failure, Outcome, run_guarded
from voicetextblender.data.measure import (
    COLUMNS,
    UNEXPECTED,
    Geometry,
    Limits,
    Ruler,
    beyond_limits,
    describe_failure,
    measure_clip,
    reason_of,
)
from voicetextblender.data.readers.config import SourceConfig
from voicetextblender.data.readers.source import RawRow, Source
from voicetextblender.data.sources import CACHE_DIR, open_source
from voicetextblender.errors import VoiceTextBlenderError, describe
from voicetextblender.files import write_atomically
from voicetextblender.progress import Report

NOT_OPENED = "a source that cannot be opened"
NO_ROWS = "a source without rows"
REPEATED_ID = "an id that was used before"
ROWS_PER_REPORT = 64


class Problem(NamedTuple):
    """What is wrong with a row, or with a whole source (line 0).

    `file` counts the files of the source from 0. `dropped` marks a sound row beyond a limit: training leaves it out,
    which nobody need mend.
    """

    source: str
    file: int
    line: int
    where: str
    reason: str
    text: str
    dropped: bool = False


@dataclass(frozen=True)
class CheckedSource:
    """A source to check.

    Args:
        limits: rows beyond them are told as dropped; None for a source that training does not cut.
    """

    config: SourceConfig
    limits: Limits | None = None


@dataclass
class CheckResult:
    """What was tried, and what was found, in the order of the sources and their lines."""

    num_rows: int = 0
    num_clips_decoded: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def faults(self) -> list[Problem]:
        """What somebody has to mend: everything but rows beyond a limit."""
        return [problem for problem in self.problems if not problem.dropped]

    def by_reason(self) -> dict[str, list[Problem]]:
        """The problems of each reason, the most frequent reason first, faults before rows beyond a limit."""
        counts = Counter((problem.dropped, problem.reason) for problem in self.problems)
        order = sorted(counts, key=lambda key: (key[0], -counts[key], key[1]))
        return {reason: [one for one in self.problems if one.reason == reason] for _, reason in order}


def check_sources(
    sources: Sequence[CheckedSource],
    renderer: Renderer | None,
    geometry: Geometry,
    *,
    decode: bool = False,
    cache_dir: Path = CACHE_DIR,
    num_workers: int = 1,
    time_limit_s: float = 60.0,
    report: Report | None = None,
) -> CheckResult:
    """Parse, measure and render every row, and decode every clip if asked. No row and no clip can end it.

    Args:
        renderer: none leaves out all that has to do with tokens.
        cache_dir: for what a reader must keep.
        num_workers: processes.
        time_limit_s: of one row, and of one clip; what takes longer is a problem and is not waited for.
        report: told of rows.
    """
    result = CheckResult()
    opened: list[tuple[int, Source]] = []
    for number, source in enumerate(sources):
        try:
            opened.append((number, open_source(source.config, cache_dir)))
        except VoiceTextBlenderError as error:
            result.problems.append(_of_source(source.config, NOT_OPENED, str(error)))
    readers = dict(opened)
    total = sum(_count_rows(reader) for reader in readers.values())
    task = _Task(readers, [source.limits for source in sources], renderer, geometry, decode)
    ids = [_Ids() for _ in sources]
    rows = _rows(readers, result)
    for outcome in run_guarded(task, rows, num_workers=num_workers, time_limit_s=time_limit_s):
        result.problems += _problems_of(outcome, readers, ids)
        result.num_clips_decoded += isinstance(outcome.result, _Found) and outcome.result.decoded
        result.num_rows += outcome.is_last
        if report is not None and outcome.is_last and result.num_rows % ROWS_PER_REPORT == 0:
            report(result.num_rows, max(total, result.num_rows))
    if report is not None:
        report(total, total)
    for number, reader in opened:
        result.problems += ids[number].problems(reader)
    place = {source.config.name: number for number, source in enumerate(sources)}
    # A row that is measured and then decoded can tell of the same fault twice.
    result.problems = list(dict.fromkeys(sorted(result.problems, key=lambda one: (place[one.source], one))))
    return result


def write_problems(problems: Sequence[Problem], path: Path) -> None:
    """One JSON object a line: source, file, line, where, reason, text, dropped."""
    with write_atomically(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for problem in problems:
            file.write(json.dumps(problem._asdict(), ensure_ascii=False) + "\n")


class _Found(NamedTuple):
    """What a unit of a row gives: problems, a hash of the row's id, whether a clip was decoded."""

    problems: list[Problem]
    id_hash: bytes | None = None
    decoded: bool = False


class _Ids:
    """The ids of a source, as hashes, each with its first place (file, line); and the places that repeat one."""

    def __init__(self) -> None:
        self._first: dict[bytes, tuple[int, int]] = {}
        self._repeated: list[tuple[bytes, tuple[int, int]]] = []

    def add(self, id_hash: bytes, place: tuple[int, int]) -> None:
        """Places may come in any order."""
        first = self._first.setdefault(id_hash, place)
        if first != place:
            self._first[id_hash] = min(first, place)
            self._repeated.append((id_hash, max(first, place)))

    def problems(self, reader: Source) -> Iterator[Problem]:
        """One for every row that repeats an id."""
        for id_hash, (file, line) in self._repeated:
            first_file, first_line = self._first[id_hash]
            where, first = reader.where(line, file), reader.where(first_line, first_file)
            text = describe(where, f"its id is that of {first}", "ids are unique within a source", "Rename it")
            yield Problem(reader.name, file, line, where, REPEATED_ID, text)


class _Task:
    """The units of a row: the row itself, then each of its clips decoded."""

    def __init__(
        self,
        readers: dict[int, Source],
        limits: Sequence[Limits | None],
        renderer: Renderer | None,
        geometry: Geometry,
        decode: bool,
    ) -> None:
        self.readers = readers
        self.limits = limits
        self.rulers = (
            {number: Ruler(reader, renderer, geometry) for number, reader in readers.items()} if renderer else {}
        )
        self.geometry = geometry
        self.decode = decode

    def __call__(self, item: tuple[int, RawRow], unit: int) -> tuple[_Found, bool]:
        number, raw = item
        reader = self.readers[number]
        try:
            conversation = reader.parse(raw)
            clips = _clips(conversation, _where(reader, raw)) if self.decode else []
        except Exception as error:
            return _Found([_describe(reader, raw, error)]), False
        if unit > len(clips):
            return _Found([]), False
        id_hash = _hash(conversation.id) if unit == 0 else None
        try:
            if unit == 0:
                problems = self._measure(number, raw, conversation)
            else:
                problems = []
                read_clip(*clips[unit - 1])
            return _Found(problems, id_hash, decoded=unit > 0), unit < len(clips)
        except Exception as error:
            return _Found([_describe(reader, raw, error)], id_hash), unit < len(clips)

    def _measure(self, number: int, raw: RawRow, conversation: Conversation) -> list[Problem]:
        """The problem of a row that is beyond a limit."""
        reader, limits = self.readers[number], self.limits[number]
        where = _where(reader, raw)
        if number not in self.rulers:
            counts = [measure_clip(clip, self.geometry, place) for clip, place in _clips(conversation, where)]
            num_tokens, longest_clip = 0, max(counts, default=0)
        else:
            row = self.rulers[number](raw)
            columns = dict(zip(COLUMNS.names or (), row, strict=True))
            num_tokens, longest_clip = columns["num_tokens"], columns["longest_clip"]
        beyond = beyond_limits(num_tokens, longest_clip, limits, where) if limits else None
        return [Problem(reader.name, raw.file, raw.line, where, *beyond, dropped=True)] if beyond else []


def _clips(conversation: Conversation, where: str) -> list[tuple[AudioPart, str]]:
    """Each clip with the name of its turn."""
    turns = enumerate(conversation.turns, start=1)
    return [(clip, f"{where} turn {number}") for number, turn in turns for clip in turn.clips]


def _where(reader: Source, raw: RawRow) -> str:
    return reader.where(raw.line, raw.file)


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _describe(reader: Source, raw: RawRow, error: Exception) -> Problem:
    where = _where(reader, raw)
    if isinstance(error, VoiceTextBlenderError):
        return Problem(reader.name, raw.file, raw.line, where, reason_of(error), str(error))
    found = f"{type(error).__name__}: {error}".rstrip(".")
    text = describe(where, found, "a row is used or refused with a reason", "Look at the row; tell us if it is sound")
    return Problem(reader.name, raw.file, raw.line, where, UNEXPECTED, text)


def _of_source(config: SourceConfig, reason: str, text: str) -> Problem:
    return Problem(config.name, 0, 0, config.path, reason, text)


def _count_rows(reader: Source) -> int:
    try:
        return sum(1 for _ in reader.scan())
    except VoiceTextBlenderError:
        return 0  # counted as a problem when it is read


def _rows(readers: dict[int, Source], result: CheckResult) -> Iterator[tuple[int, RawRow]]:
    """Every row of every source; a source that breaks off, or has no rows, is a problem."""
    for number, reader in readers.items():
        num_rows = 0
        try:
            for raw in reader.scan():
                num_rows += 1
                yield number, raw
        except VoiceTextBlenderError as error:
            result.problems.append(_of_source(reader.config, NOT_OPENED, str(error)))
            continue
        if not num_rows:
            text = describe(reader.config.path, "0 rows", "a manifest has at least 1", "Fill it, or remove it")
            result.problems.append(_of_source(reader.config, NO_ROWS, text))


def _problems_of(
    outcome: Outcome[tuple[int, RawRow]], readers: dict[int, Source], ids: Sequence[_Ids]
) -> list[Problem]:
    """What came of one unit, as problems; the id is kept for later."""
    number, raw = outcome.item
    reader = readers[number]
    where = _where(reader, raw)
    if isinstance(outcome.result, Failure):
        subject = f"clip {outcome.unit}" if outcome.unit else "the row"
        reason, text = describe_failure(outcome.result, where, subject)
        return [Problem(reader.name, raw.file, raw.line, where, reason, text)]
    found = outcome.result
    if found.id_hash is not None:
        ids[number].add(found.id_hash, (raw.file, raw.line))
    return found.problems
