"""What the stores of rows in text share: files here or far away, and any row by its byte offset."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from voicetextblender.audio.storage import parent_folder
from voicetextblender.data.readers.files import find_files, local_copy, row_id
from voicetextblender.data.readers.fingerprints import fingerprint_files
from voicetextblender.data.readers.source import SPAN_SIZE, Item, RawRow, Span


class TextFiles:
    """The files of a pattern, of which every row is a run of bytes.

    Args:
        pattern: the files (`expand_paths`).
        source: its name, for errors.
        cache_dir: folder for copies of files that cannot be read by offset.
        folder: what relative audio paths start from; the folder of each file when None.

    Raises:
        DataError: a file does not exist.
    """

    def __init__(self, pattern: str, source: str, cache_dir: Path, folder: str | None) -> None:
        self.paths = find_files(pattern, source)
        self._local = tuple(local_copy(path, cache_dir) for path in self.paths)
        self._cache_dir = cache_dir
        self._folder = folder

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(path.stat().st_size for path in self._local)

    @property
    def fingerprint(self) -> str:
        return fingerprint_files(self._local, self._cache_dir)

    def where(self, line: int, file: int = 0) -> str:
        return f"{self.paths[file]}:{line}"

    def fetch(self, line: int, offset: int, num_bytes: int, file: int) -> RawRow:
        # Opened anew each time: an open file shared by forked workers would share its position too.
        with self._local[file].open("rb") as opened:
            opened.seek(offset)
            return RawRow(line, offset, opened.read(num_bytes), file)

    def _whole(self, file: int) -> Span:
        """One span for all rows of a file."""
        return Span(file, 1, 0, self._local[file].stat().st_size, is_uncut=True)

    def _cut(self, file: int) -> Iterator[Span]:
        """The lines of a file in spans; for files of which each line end ends a row."""
        line, start = 1, 0
        with self._local[file].open("rb") as opened:
            while block := opened.read(SPAN_SIZE):
                rest = opened.readline()
                stop = start + len(block) + len(rest)
                yield Span(file, line, start, stop)
                line += block.count(b"\n") + rest.count(b"\n")
                start = stop

    def _lines(self, span: Span) -> Iterator[RawRow]:
        """Every line of a span, blank ones too."""
        offset = span.start
        with self._local[span.file].open("rb") as opened:
            opened.seek(offset)
            for line, content in enumerate(opened, start=span.line):
                if offset >= span.stop:
                    return
                yield RawRow(line, offset, content, span.file)
                offset += len(content)

    def _item(self, row: RawRow, value: Any) -> Item:
        """What a row holds, with the names that it goes by."""
        path = self.paths[row.file]
        folder = parent_folder(path) if self._folder is None else self._folder
        name = row_id(path, row.line, len(self.paths))
        return Item(value, self.where(row.line, row.file), folder, name, row.file)
