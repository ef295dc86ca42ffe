"""Tables in text: comma- or tab-separated values, as Common Voice, CoVoST or a spreadsheet write them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from voicetextblender.chat.fields import refusal
from voicetextblender.data.readers.columns import ColumnsParser
from voicetextblender.data.readers.config import SourceConfig
from voicetextblender.data.readers.source import Item, RawRow, Source, Span
from voicetextblender.data.readers.spoken import Wordings
from voicetextblender.data.readers.text_files import TextFiles

QUOTING_DELIMITERS = ",;"
"""In such tables quotes enclose values, line breaks too; in others (tabs, bars) quotes are letters."""


def open_table(config: SourceConfig, cache_dir: Path) -> Source:
    """Tables of the kind table."""
    store = TableRows(config.path, config.name, cache_dir, config.delimiter, config.header, config.audio_folder)
    wordings = Wordings(config.prompts)
    return Source(config, store, ColumnsParser(config, wordings), wordings.fingerprint)


class TableRows(TextFiles):
    """Rows of delimited text, each a mapping from the names of its columns.

    Args:
        delimiter: comma, or tab for names in .tsv, when None.
        has_header: whether the first line names the columns; "1", "2", ... if not.

    Raises:
        DataError: a file does not exist, or its header is unusable.
    """

    def __init__(
        self,
        pattern: str,
        source: str,
        cache_dir: Path,
        delimiter: str | None = None,
        has_header: bool = True,
        folder: str | None = None,
    ) -> None:
        super().__init__(pattern, source, cache_dir, folder)
        is_tabbed = self.paths[0].removesuffix(".gz").endswith(".tsv")
        self._delimiter = delimiter or ("\t" if is_tabbed else ",")
        self._has_quotes = self._delimiter in QUOTING_DELIMITERS
        self._has_header = has_header
        headers = tuple(self._read_header(file) for file in range(len(self.paths))) if has_header else ()
        self._names = tuple(names for names, _ in headers)
        self._begins = tuple(begin for _, begin in headers)

    def spans(self) -> Iterator[Span]:
        for file in range(len(self.paths)):
            yield from [self._whole(file)] if self._has_quotes else self._cut(file)

    def scan(self, span: Span) -> Iterator[RawRow]:
        begin = self._begins[span.file] if self._has_header else 0
        return (row for row in self._records(span) if row.offset >= begin)

    def decode(self, row: RawRow) -> Item:
        where = self.where(row.line, row.file)
        values = self._split(row.content, where)
        names = self._names[row.file] if self._has_header else [str(number) for number in range(1, len(values) + 1)]
        if len(values) != len(names):
            found, expected = f"{len(values)} values", f"the header names {len(names)} columns"
            raise refusal(where, found, expected, "Mend the line, or set delimiter")
        return self._item(row, dict(zip(names, values, strict=True)))

    def _records(self, span: Span) -> Iterator[RawRow]:
        """Every record, the header too; blank lines are none."""
        offset, begun, pending, num_quotes = span.start, span.line, b"", 0
        for line in self._lines(span):
            if not pending:
                begun = line.line
            pending += line.content
            num_quotes += line.content.count(b'"') if self._has_quotes else 0
            if num_quotes % 2 == 0:
                if pending.strip():
                    yield RawRow(begun, offset, pending, span.file)
                offset, pending, num_quotes = offset + len(pending), b"", 0
        if pending:
            yield RawRow(begun, offset, pending, span.file)  # an open quote: refused when it is decoded

    def _split(self, content: bytes, where: str) -> list[str]:
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if self._has_quotes else csv.QUOTE_NONE
        try:
            text = io.StringIO(content.decode("utf-8-sig").rstrip("\r\n"), newline="")
            return next(csv.reader(text, delimiter=self._delimiter, quoting=quoting, strict=True))
        except (UnicodeDecodeError, csv.Error) as error:
            expected, fix = "a line of a table in UTF-8 is needed", "Mend the line, or set delimiter"
            raise refusal(where, f"no row of a table ({error})", expected, fix) from None

    def _read_header(self, file: int) -> tuple[list[str], int]:
        """The names of the columns, and the offset behind them."""
        header = next(self._records(self._whole(file)), None)
        where = self.paths[file]
        if header is None:
            raise refusal(where, "the table is empty", "its first line names the columns", "Fill it, or remove it")
        names = self._split(header.content, where)
        if len(set(names)) < len(names):
            found = f"the header is {', '.join(names)}"
            fix = "Rename columns, or set header: false where there is no header"
            raise refusal(where, found, "each column has a name of its own", fix)
        return names, header.offset + len(header.content)
