"""Rows in JSON: one a line, or the items of one list."""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from voicetextblender.data.readers.source import Item, RawRow, Span
from voicetextblender.data.readers.text_files import TextFiles
from voicetextblender.errors import DataError, describe

_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{},]', re.DOTALL)
"""Strings as a whole, so that brackets and commas inside them do not count."""


class JsonRows(TextFiles):
    """Manifests of one JSON value per line (blank lines are no rows) or of one list of values.

    Args:
        may_be_list: whether a file that begins with `[` is one list; if not, every line is a row.
    """

    def __init__(
        self, pattern: str, source: str, cache_dir: Path, *, may_be_list: bool = True, folder: str | None = None
    ) -> None:
        super().__init__(pattern, source, cache_dir, folder)
        self._is_list = tuple(may_be_list and _begins_list(path) for path in self._local)

    def where(self, line: int, file: int = 0) -> str:
        return f"{self.paths[file]} item {line}" if self._is_list[file] else super().where(line, file)

    def spans(self) -> Iterator[Span]:
        for file, is_list in enumerate(self._is_list):
            yield from [self._whole(file)] if is_list else self._cut(file)

    def scan(self, span: Span) -> Iterator[RawRow]:
        if self._is_list[span.file]:
            rows = _scan_list(self._local[span.file], self.paths[span.file])
            return (row._replace(file=span.file) for row in rows)
        return (row for row in self._lines(span) if row.content.strip())

    def decode(self, row: RawRow) -> Item:
        unit = "item" if self._is_list[row.file] else "line"
        return self._item(row, _load(row.content, self.where(row.line, row.file), unit))


def _begins_list(path: Path) -> bool:
    with path.open("rb") as file:
        while piece := file.read(256):
            if begin := piece.removeprefix(b"\xef\xbb\xbf").lstrip():
                return begin.startswith(b"[")
    return False


def _scan_list(path: Path, name: str) -> Iterator[RawRow]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        depth, begin, line = 0, 0, 0
        for token in _TOKEN.finditer(content):
            sign = content[token.start() : token.start() + 1]
            depth += (sign in b"[{") - (sign in b"]}")
            if depth == 1 and sign == b"[" and not begin:
                begin = token.end()
            elif (depth == 1 and sign == b",") or depth == 0:
                line += 1
                if line > 1 or depth or content[begin : token.start()].strip():
                    yield RawRow(line, begin, content[begin : token.start()])
                begin = token.end()
            if depth == 0:
                return
    found = "the list is not closed"
    raise DataError(describe(name, found, "a list ends with ']'", "Mend the file: it may have been cut off"))


def _load(content: bytes, where: str, unit: str) -> Any:
    expected, fix = f"every {unit} is one JSON object", f"Mend the {unit} or remove it"
    try:
        return json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(describe(where, f"no UTF-8 text at byte {error.start + 1}", expected, fix)) from None
    except json.JSONDecodeError as error:
        raise DataError(describe(where, f"no JSON at column {error.colno} ({error.msg})", expected, fix)) from None
    except (ValueError, RecursionError) as error:
        raise DataError(describe(where, f"no usable JSON ({error})", expected, fix)) from None
