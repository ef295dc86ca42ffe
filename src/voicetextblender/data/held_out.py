"""What a source holds out of training: chosen by the names of recordings, speakers or rows alone."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voicetextblender.audio.storage import is_remote
from voicetextblender.chat.conversation import AudioPart, Conversation
from voicetextblender.data.readers.config import By, HeldOutConfig
from voicetextblender.data.readers.files import AUDIO_SUFFIXES
from voicetextblender.data.readers.source import SPAN_SIZE, Item, RawRow, RowStore, Source, Span
from voicetextblender.data.survey import open_mapper
from voicetextblender.errors import DataError, VoiceTextBlenderError, describe
from voicetextblender.files import write_atomically
from voicetextblender.progress import Report

HELD_OUT = "held out"
"""Reason under which training counts the rows that a source holds out."""
_VERSION = 1
ROWS_PER_TASK = 2048
ROWS_PER_SPAN = 256
PLACE = np.dtype([("file", np.int32), ("line", np.int32), ("offset", np.int64), ("num_bytes", np.int32)])
ROW = np.dtype([*PLACE.descr, ("first_key", np.int64)])
KEY = np.dtype([("key", np.uint64), ("name", np.uint64), ("is_row", np.bool_)])


@dataclass(frozen=True)
class KeyTable:
    """The recordings, speakers or ids of every row of a source that is a conversation, in the order of the rows.

    Args:
        rows: [rows] of `ROW`: the place of each, and the number of its first key.
        keys: [keys] of `KEY`: hash of what tells a recording (speaker, id) from all others, and of its bare name;
            whether it is an id, which says nothing in another source.
    """

    rows: NDArray[Any]
    keys: NDArray[Any]

    @property
    def num_keys(self) -> NDArray[np.int64]:
        """Of each row."""
        return np.diff(self.rows["first_key"], append=len(self.keys))

    def count(self, chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
        """How many of the chosen keys each row has."""
        rows = np.searchsorted(self.rows["first_key"], np.flatnonzero(chosen), side="right") - 1
        return np.bincount(rows, minlength=len(self.rows))

    def choose(self, held_out: HeldOutConfig) -> NDArray[np.bool_]:
        """Which keys are on the held-out side.

        Raises:
            DataError: the list cannot be read.
        """
        if held_out.fraction is not None:
            return np.asarray(self.keys["key"] < np.uint64(held_out.fraction * 2.0**64))
        assert held_out.list is not None
        listed = _read_list(Path(held_out.list), held_out.by)
        return np.isin(self.keys["key"], listed) | np.isin(self.keys["name"], listed)


def measure_keys(
    source: Source, by: By, cache_dir: Path, num_workers: int = 1, report: Report | None = None
) -> KeyTable:
    """The table of a source, kept in the cache; rows that are no conversations have no place in it.

    Args:
        num_workers: processes.
        report: told of bytes.
    """
    parts = (_VERSION, by, source.identity, source.fingerprint, os.getcwd())
    stem = cache_dir / f"keys-{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}"
    rows_path, keys_path = stem.with_name(f"{stem.name}.rows.npy"), stem.with_name(f"{stem.name}.keys.npy")
    if not rows_path.is_file():
        table = _measure(source, by, num_workers, report)
        for path, columns in (
            (keys_path, table.keys),
            (rows_path, table.rows),
        ):  # rows last: without them it is not taken
            with write_atomically(path) as temporary, temporary.open("wb") as file:
                np.save(file, columns)
    return KeyTable(_load(rows_path), _load(keys_path))


def held_out_side(source: Source, cache_dir: Path, num_workers: int = 1) -> Source:
    """The rows that a source holds out, as a source.

    Raises:
        DataError: it holds out none.
    """
    held_out = source.config.held_out
    assert held_out is not None
    table = measure_keys(source, held_out.by, cache_dir, num_workers)
    places = table.rows[is_held_out(table, held_out)][list(PLACE.names or ())]
    if not len(places):
        fix = "Raise held_out.fraction, or mend the list: each line is the name of a recording, speaker or row"
        raise DataError(describe(f"source '{source.name}'", "it holds out no row", "at least 1 is needed", fix))
    identity = repr((source.identity, held_out.model_dump()))
    return source.over(ChosenRows(source.store, places), identity)


def is_held_out(table: KeyTable, held_out: HeldOutConfig) -> NDArray[np.bool_]:
    """The rows of which every recording (speaker, id) is on the held-out side."""
    counts = table.count(table.choose(held_out))
    return np.asarray((counts == table.num_keys) & (counts > 0))


class ChosenRows:
    """Some of the rows of a store.

    Args:
        places: [rows] of `PLACE`, in the order of the store.
    """

    def __init__(self, store: RowStore, places: NDArray[Any]) -> None:
        self.store = store
        self.places = places
        self.paths = store.paths

    @property
    def sizes(self) -> tuple[int, ...]:
        return self.store.sizes

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.store.fingerprint} {self.places.tobytes().hex()}".encode()).hexdigest()

    def where(self, line: int, file: int = 0) -> str:
        return self.store.where(line, file)

    def spans(self) -> Iterator[Span]:
        files = self.places["file"]
        starts = np.flatnonzero(np.diff(files, prepend=-1))
        for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(files)], strict=True):
            for first in range(start, stop, ROWS_PER_SPAN):
                file, line, begin, _ = self.places[first].tolist()
                _, _, end, num_bytes = self.places[min(first + ROWS_PER_SPAN, stop) - 1].tolist()
                yield Span(file, line, begin, end + max(1, num_bytes))

    def scan(self, span: Span) -> Iterator[RawRow]:
        offset = self.places["offset"]
        chosen = (self.places["file"] == span.file) & (offset >= span.start) & (offset < span.stop)
        for file, line, begin, num_bytes in self.places[chosen].tolist():
            yield self.store.fetch(line, begin, num_bytes, file)

    def fetch(self, line: int, offset: int, num_bytes: int, file: int) -> RawRow:
        return self.store.fetch(line, offset, num_bytes, file)

    def decode(self, row: RawRow) -> Item:
        return self.store.decode(row)


def keys_of(conversation: Conversation, by: By) -> list[tuple[int, int, bool]]:
    """What stands in the table of keys for a conversation; nothing if it names no speaker."""
    if by == "speaker":
        speaker = conversation.metadata.get("speaker")
        return [] if speaker is None else [(*(hash_name(f"speaker {speaker}"),) * 2, False)]
    if by == "row" or not conversation.clips:
        return [(*(hash_name(f"row {conversation.id}"),) * 2, True)]
    return [(*pair, False) for pair in dict.fromkeys(map(_key_of_recording, conversation.clips))]


def hash_name(name: str) -> int:
    """64 bits, evenly spread."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def _key_of_recording(clip: AudioPart) -> tuple[int, int]:
    assert clip.path is not None
    name = hash_name(f"name {_bare(clip.path)}")
    if clip.encoded is not None:
        return hash_name(f"bytes {hashlib.sha256(clip.encoded).hexdigest()}"), name
    if clip.num_bytes is not None or clip.byte_offset:  # the name would be that of the tar
        key = hash_name(f"file {_place(clip.path)} {clip.byte_offset}")
        return key, key
    return hash_name(f"file {_place(clip.path)}"), name


def _place(path: str) -> str:
    """A path as recipes write it, relative to the working directory: the split stays when that is moved."""
    if is_remote(path):
        return path
    return os.path.abspath(path).removeprefix(os.getcwd() + os.sep)


def _bare(path: str) -> str:
    name = path.rpartition("/")[2]
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in AUDIO_SUFFIXES else name


def _read_list(path: Path, by: By) -> NDArray[np.uint64]:
    """Hashes of the names, as they may stand in either column of a table."""
    try:
        names = [line.strip() for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        fix = "Correct held_out.list"
        raise DataError(describe(str(path), f"cannot be read ({error})", "one name a line", fix)) from None
    if by != "recording":
        listed = {hash_name(f"{by} {name}") for name in names}
    else:
        paths = {hash_name(f"file {_place(name)}") for name in names}
        listed = paths | {hash_name(f"name {_bare(name)}") for name in names if "/" not in name}
        listed |= {hash_name(f"row {name}") for name in names}
    return np.array(sorted(listed), np.uint64)


def _load(path: Path) -> NDArray[Any]:
    loaded: NDArray[Any] = np.load(path, mmap_mode="r")
    return loaded


def _measure(source: Source, by: By, num_workers: int, report: Report | None) -> KeyTable:
    rows: list[NDArray[Any]] = [np.empty(0, ROW)]
    keys: list[NDArray[Any]] = [np.empty(0, KEY)]
    num_keys, done, total = 0, 0, sum(source.store.sizes)
    with open_mapper(num_workers) as mapped:
        for part, size in mapped(partial(_measure_rows, source, by), _parts(source.store)):
            part.rows["first_key"] += num_keys
            num_keys += len(part.keys)
            rows.append(part.rows)
            keys.append(part.keys)
            done += size
            if report is not None:
                report(min(done, total), total)
    return KeyTable(np.concatenate(rows), np.concatenate(keys))


def _parts(store: RowStore) -> Iterator[Span | list[tuple[int, int, int, int]]]:
    """All rows of a store in order: parts of its files, or places of rows where a store cannot cut small."""
    for span in store.spans():
        if not span.is_uncut or span.stop - span.start <= SPAN_SIZE:
            yield span
            continue
        places = ((raw.file, raw.line, raw.offset, len(raw.content)) for raw in store.scan(span))
        while batch := list(islice(places, ROWS_PER_TASK)):
            yield batch


def _measure_rows(source: Source, by: By, part: Span | Sequence[tuple[int, int, int, int]]) -> tuple[KeyTable, int]:
    """The keys of a part, and its size in the unit of `RowStore.sizes`."""
    store = source.store
    if isinstance(part, Span):
        raws, size = store.scan(part), part.stop - part.start
    else:
        raws = (store.fetch(line, offset, num_bytes, file) for file, line, offset, num_bytes in part)
        size = sum(max(1, num_bytes) for *_, num_bytes in part)
    rows: list[tuple[int, ...]] = []
    keys: list[tuple[int, int, bool]] = []
    for raw in raws:
        try:
            found = keys_of(source.parse(raw), by)
        except VoiceTextBlenderError:
            continue
        rows.append((raw.file, raw.line, raw.offset, len(raw.content), len(keys)))
        keys += found
    return KeyTable(np.array(rows, ROW), np.array(keys, KEY)), size
