"""Training without what is held out: a recording that one source holds out is drawn from none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voicetextblender.data.held_out import HELD_OUT, KeyTable, is_held_out, measure_keys
from voicetextblender.data.index import LeftOut
from voicetextblender.data.readers.config import By, HeldOutConfig
from voicetextblender.data.readers.source import Source
from voicetextblender.errors import DataError, describe
from voicetextblender.progress import ShowProgress, show_nothing

ON_BOTH_SIDES = "partly held out: neither trained on nor measured"
HELD_OUT_ELSEWHERE = "held out in another source"
KEYS_AT_ONCE = 1 << 20


def find_left_out(
    sources: Sequence[Source],
    cache_dir: Path,
    num_workers: int = 1,
    show_progress: ShowProgress = show_nothing,
) -> dict[str, LeftOut]:
    """The rows of each source that training leaves out, by name of the source; empty if no source holds out any.

    Raises:
        DataError: a list of names that cannot be read or names nothing, or rows without the speaker that is asked for.
    """
    rules = {source.name: source.config.held_out for source in sources if source.config.held_out is not None}
    left_out: dict[str, dict[str, NDArray[np.bool_]]] = {source.name: {} for source in sources}
    places: dict[str, NDArray[np.int64]] = {}
    for by in sorted({rule.by for rule in rules.values()}):
        tables = {source.name: _open(source, by, cache_dir, num_workers, show_progress) for source in sources}
        own = {name: rule for name, rule in rules.items() if rule.by == by}
        held = {name: _held_keys(tables[name], rule, name) for name, rule in own.items()}
        everywhere = np.unique(np.concatenate([keys["key"][~keys["is_row"]] for keys in held.values()]))
        for name, table in tables.items():
            places[name] = np.stack([table.rows["file"], table.rows["line"]], axis=1).astype(np.int64)
            _mark(left_out[name], table, own.get(name), everywhere)
    return {name: _disjoint(marks, places[name]) for name, marks in left_out.items() if marks}


def _open(source: Source, by: By, cache_dir: Path, num_workers: int, show_progress: ShowProgress) -> KeyTable:
    with show_progress(f"Splitting {source.name}") as report:
        return measure_keys(source, by, cache_dir, num_workers, report)


def _held_keys(table: KeyTable, held_out: HeldOutConfig, name: str) -> NDArray[Any]:
    where = f"source '{name}' held_out"
    nameless = int((table.num_keys == 0).sum())
    if nameless:
        fix = "Name the column that tells (columns.speaker), or hold out by recording"
        raise DataError(describe(where, f"{nameless:,} rows name no speaker", "with by: speaker each row does", fix))
    chosen = table.choose(held_out)
    if held_out.list is not None and not chosen.any():
        found = f"no name in '{held_out.list}' is that of a {held_out.by}"
        raise DataError(describe(where, found, "at least one is", "Correct the list, or held_out.by"))
    return np.asarray(table.keys[chosen])


def _mark(
    marks: dict[str, NDArray[np.bool_]], table: KeyTable, own: HeldOutConfig | None, everywhere: NDArray[np.uint64]
) -> None:
    """Add to the rows of a source that are left out, by reason."""
    found: Mapping[str, NDArray[np.bool_]] = {}
    if own is not None:
        whole = is_held_out(table, own)
        found = {HELD_OUT: whole, ON_BOTH_SIDES: (table.count(table.choose(own)) > 0) & ~whole}
    found = {**found, HELD_OUT_ELSEWHERE: table.count(_are_among(table.keys["key"], everywhere)) > 0}
    for reason, rows in found.items():
        marks[reason] = marks[reason] | rows if reason in marks else rows


def _are_among(keys: NDArray[np.uint64], sorted_keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """`np.isin` in pieces: of tens of millions of keys it would take gigabytes."""
    isin = partial(np.isin, test_elements=sorted_keys)
    pieces = [isin(keys[start : start + KEYS_AT_ONCE]) for start in range(0, len(keys), KEYS_AT_ONCE)]
    return np.concatenate([np.zeros(0, bool), *pieces])


def _disjoint(marks: Mapping[str, NDArray[np.bool_]], places: NDArray[np.int64]) -> LeftOut:
    """Places of the marked rows, each under the first of its reasons."""
    left_out: dict[str, NDArray[np.int64]] = {}
    before = np.zeros(len(places), bool)
    for reason in (HELD_OUT, ON_BOTH_SIDES, HELD_OUT_ELSEWHERE):
        rows = marks.get(reason, np.zeros(len(places), bool)) & ~before
        before |= rows
        if rows.any():
            left_out[reason] = places[rows]
    return left_out
