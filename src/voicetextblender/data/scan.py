"""Every row of a source measured, by processes that take a part of its files each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from voicetextblender.data.guarded import Failure, run_guarded
from voicetextblender.data.measure import COLUMNS, Drop, Ruler, drop_row, drop_stuck
from voicetextblender.data.readers.source import SPAN_SIZE, RawRow, RowStore, Span
from voicetextblender.errors import VoiceTextBlenderError
from voicetextblender.progress import Report

TIME_LIMIT_S = 60.0
"""Of one row; only a broken file or a dead disk takes longer."""
ROWS_PER_CHUNK = 256

Chunk = Span | tuple[RawRow, ...]
"""What a process takes at once: a part of a file that it scans itself, or rows of one that cannot be cut."""


Tell = Callable[[int, int], None]
"""Takes the number of a file and how far in it the measuring is."""


class Measured(NamedTuple):
    """Consecutive rows: those that are usable (`COLUMNS`), and the others."""

    rows: NDArray[Any]
    bad_rows: list[Drop]


def scan_source(
    ruler: Ruler, *, num_workers: int = 0, time_limit_s: float = TIME_LIMIT_S, report: Report | None = None
) -> Measured:
    """All rows of the ruler's source, in order.

    Args:
        num_workers: processes; the result does not depend on it. 0 does it in this one, without a time limit.
        time_limit_s: of one row; after that it is a bad row.
        report: told of bytes.

    Raises:
        DataError: the files break off.
    """
    store = ruler.source.store
    ends = np.cumsum([0, *store.sizes]).tolist()

    def tell(file: int, offset: int) -> None:
        if report is not None:
            report(ends[file] + offset, ends[-1])

    parts = _measure_in_processes(ruler, num_workers, time_limit_s, tell) if num_workers else _measure_here(ruler, tell)
    tell(0, ends[-1])
    return _join(parts)


def measure_rows(ruler: Ruler, rows: Iterable[RawRow]) -> Measured:
    """Rows measured here and now."""
    usable: list[tuple[int, ...]] = []
    bad_rows: list[Drop] = []
    for raw in rows:
        try:
            usable.append(ruler(raw))
        except VoiceTextBlenderError as error:
            bad_rows.append(drop_row(raw, error))
    return Measured(np.array(usable, dtype=COLUMNS), bad_rows)


class _Task:
    """Measures a chunk; an error that is no fault of a row is handed over, to be raised where it is seen."""

    def __init__(self, ruler: Ruler) -> None:
        self.ruler = ruler

    def __call__(self, item: tuple[Any, Chunk], unit: int) -> tuple[Measured | Exception, bool]:
        chunk = item[1]
        try:
            rows = self.ruler.source.store.scan(chunk) if isinstance(chunk, Span) else chunk
            return measure_rows(self.ruler, rows), False
        except Exception as error:
            return error, False


def _measure_here(ruler: Ruler, tell: Tell) -> list[Measured]:
    parts = []
    for rows in _batches(ruler.source.scan()):
        parts.append(measure_rows(ruler, rows))
        tell(rows[-1].file, rows[-1].offset)
    return parts


def _measure_in_processes(ruler: Ruler, num_workers: int, time_limit_s: float, tell: Tell) -> list[Measured]:
    """Chunks measured in any order and put in order; a chunk in which a process hangs or dies is taken row by row."""
    store, task = ruler.source.store, _Task(ruler)
    measured: dict[int, Measured] = {}
    failed: dict[int, Chunk] = {}
    done = 0
    for outcome in run_guarded(task, enumerate(_chunks(store)), num_workers=num_workers, time_limit_s=time_limit_s):
        number, chunk = outcome.item
        if isinstance(outcome.result, Failure):
            failed[number] = chunk
        else:
            measured[number] = _unwrap(outcome.result)
        done += _size(chunk)
        tell(0, done)
    singles = (
        ((number, place), (row,))
        for number, chunk in failed.items()
        for place, row in enumerate(store.scan(chunk) if isinstance(chunk, Span) else chunk)
    )
    pieces: dict[tuple[int, int], Measured] = {}
    for single in run_guarded(task, singles, num_workers=num_workers, time_limit_s=time_limit_s):
        place, (row,) = single.item
        if isinstance(single.result, Failure):
            stuck = drop_stuck(row, ruler.source.where(row.line, row.file), single.result)
            pieces[place] = Measured(np.empty(0, COLUMNS), [stuck])
        else:
            pieces[place] = _unwrap(single.result)
    for number in failed:
        measured[number] = _join([pieces[place] for place in sorted(pieces) if place[0] == number])
    return [measured[number] for number in sorted(measured)]


def _chunks(store: RowStore) -> Iterator[Chunk]:
    """All rows of a store in order; what a store cannot cut small is scanned here."""
    for span in store.spans():
        if span.is_uncut and span.stop - span.start > SPAN_SIZE:
            yield from _batches(store.scan(span))
        else:
            yield span


def _batches(rows: Iterator[RawRow]) -> Iterator[tuple[RawRow, ...]]:
    while batch := tuple(islice(rows, ROWS_PER_CHUNK)):
        yield batch


def _size(chunk: Chunk) -> int:
    """In the unit of `RowStore.sizes`."""
    if isinstance(chunk, Span):
        return chunk.stop - chunk.start
    return sum(max(1, len(row.content)) for row in chunk)


def _unwrap(result: Measured | Exception) -> Measured:
    if isinstance(result, Exception):
        raise result
    return result


def _join(parts: Sequence[Measured]) -> Measured:
    rows = np.concatenate([np.empty(0, COLUMNS), *(part.rows for part in parts)])
    return Measured(rows, [bad for part in parts for bad in part.bad_rows])
