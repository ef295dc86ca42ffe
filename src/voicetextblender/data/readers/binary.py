"""Rows of binary tables, Arrow and Parquet."""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property, lru_cache, partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from voicetextblender.audio.storage import is_remote, parent_folder
from voicetextblender.data.readers.files import local_copy, row_id
from voicetextblender.data.readers.source import Item, RawRow, Span
from voicetextblender.errors import DataError, describe

ROWS_PER_SPAN = 256


class BinaryRows:
    """Rows of Arrow or Parquet files, by number.

    A row of a Parquet file is read with its whole row group, of which the last two are kept: with clips in it, a
    dataset is read faster as Arrow.

    Args:
        paths: the files.
        cache_dir: folder for copies of those that are remote.
        folder: what relative audio paths start from; the folder of each file when None.

    Raises:
        DataError: pyarrow is not installed.
    """

    def __init__(self, paths: tuple[str, ...], cache_dir: Path, folder: str | None = None) -> None:
        self.paths = paths
        self._folder = folder
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            fix = "Install it: pip install 'voicetextblender[huggingface]'"
            raise DataError(describe(paths[0], "pyarrow is not installed", "it reads such files", fix)) from None
        self._local = tuple(str(local_copy(path, cache_dir)) for path in paths)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        return tuple(_open_table(path).num_rows for path in self._local)

    @property
    def fingerprint(self) -> str:
        """Of names, sizes and times of change: the content is too much to read at every start."""
        stats = [
            (path, os.path.getsize(local), 0 if is_remote(path) else os.stat(local).st_mtime_ns)
            for path, local in zip(self.paths, self._local, strict=True)
        ]
        return hashlib.sha256(repr(stats).encode()).hexdigest()

    def where(self, line: int, file: int = 0) -> str:
        return f"{self.paths[file]} row {line}"

    def spans(self) -> Iterator[Span]:
        for file, size in enumerate(self.sizes):
            for start in range(0, size, ROWS_PER_SPAN):
                yield Span(file, start + 1, start, min(start + ROWS_PER_SPAN, size))

    def scan(self, span: Span) -> Iterator[RawRow]:
        return (self.fetch(row + 1, row, 0, span.file) for row in range(span.start, span.stop))

    def fetch(self, line: int, offset: int, num_bytes: int, file: int) -> RawRow:
        return RawRow(line, offset, b"", file, _open_table(self._local[file]).row(offset))

    def decode(self, row: RawRow) -> Item:
        path = self.paths[row.file]
        folder = parent_folder(path) if self._folder is None else self._folder
        return Item(
            row.value, self.where(row.line, row.file), folder, row_id(path, row.line, len(self.paths)), row.file
        )


class _Table:
    """One file as blocks of rows that are read on demand."""

    def __init__(self, path: str) -> None:
        import pyarrow
        from pyarrow import ipc, parquet

        self.path = path
        self._read_block: Any
        try:
            if path.endswith(".parquet"):
                file = parquet.ParquetFile(path, memory_map=True)
                counts = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
                self._read_block = partial(_read_row_group, file)
            else:
                batches = _read_batches(ipc, pyarrow.memory_map(path))
                counts = [batch.num_rows for batch in batches]
                self._read_block = batches.__getitem__
        except (pyarrow.ArrowInvalid, OSError) as error:
            expected, fix = "an Arrow or Parquet file is needed", "Make or fetch it again"
            raise DataError(describe(path, f"cannot be read ({error})", expected, fix)) from None
        self._ends = list(accumulate(counts))

    @property
    def num_rows(self) -> int:
        return self._ends[-1] if self._ends else 0

    def row(self, number: int) -> dict[str, Any]:
        """One row as values of Python."""
        block = bisect_right(self._ends, number)
        begin = self._ends[block - 1] if block else 0
        values: dict[str, Any] = self._read_block(block).slice(number - begin, 1).to_pylist()[0]
        return values


def _read_batches(ipc: Any, mapped: Any) -> list[Any]:
    """The batches of a file in either Arrow format; they stay on disk until a row is looked at."""
    try:
        file = ipc.open_file(mapped)
        return [file.get_batch(i) for i in range(file.num_record_batches)]
    except ValueError:  # pyarrow.ArrowInvalid: no file format; save_to_disk writes streams
        mapped.seek(0)
        return list(ipc.open_stream(mapped))


@lru_cache(maxsize=2)
def _read_row_group(file: Any, number: int) -> Any:
    # Without threads: a forked worker has none of those that its parent's pool had.
    return file.read_row_group(number, use_threads=False)


@lru_cache(maxsize=64)
def _open_table(path: str) -> _Table:
    return _Table(path)
