"""A source: a store that finds rows, and a parser that makes conversations of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple, Protocol

from voicetextblender.audio.storage import is_remote
from voicetextblender.chat.conversation import Conversation
from voicetextblender.data.readers.config import ReaderConfig, SourceConfig


class RawRow(NamedTuple):
    """One row as it lies in its file: number from 1, offset (bytes, or rows of a table in binary form), bytes.

    `file` counts the files of the source; `value` is the row where it is no text.
    """

    line: int
    offset: int
    content: bytes
    file: int = 0
    value: Any = None


SPAN_SIZE = 1 << 16
"""About so many bytes of a file are scanned at once: some hundred rows."""


class Span(NamedTuple):
    """Rows of one file that stand side by side: from `start` to before `stop`, in the unit of `RawRow.offset`.

    `line` is the number that the first one has, or would have if it is no blank line; `file` counts the files.
    `is_uncut` marks a file that must be scanned in one go and may be long.
    """

    file: int
    line: int
    start: int
    stop: int
    is_uncut: bool = False


class Item(NamedTuple):
    """A decoded row on its way to a parser."""

    value: Any
    where: str
    """How errors name it."""
    folder: str
    """Relative audio paths start here."""
    id: str
    """For rows that have none of their own; unique in the source."""
    file: int
    """Counts the files of the source."""


class RowStore(Protocol):
    """Files that hold rows, each of which can be read by its place."""

    paths: tuple[str, ...]
    """The files, as errors name them."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Of each file, in the unit of `RawRow.offset`."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes whenever the rows do."""
        ...

    def where(self, line: int, file: int = 0) -> str:
        """How errors name a row."""
        ...

    def spans(self) -> Iterator[Span]:
        """Parts that can be scanned each on its own; together, in order, they are all rows.

        Hardly larger than `SPAN_SIZE` where the form of the file allows.
        """
        ...

    def scan(self, span: Span) -> Iterator[RawRow]:
        """The rows of a span from the first to the last."""
        ...

    def fetch(self, line: int, offset: int, num_bytes: int, file: int) -> RawRow:
        """One row from its place."""
        ...

    def decode(self, row: RawRow) -> Item:
        """What a row holds.

        Raises:
            DataError: it is not in the form of the file.
        """
        ...


def scan_store(store: RowStore) -> Iterator[RawRow]:
    """Every row from the first to the last."""
    return (row for span in store.spans() for row in store.scan(span))


Parse = Callable[[Item], Sequence[Conversation]]
"""The conversations that a row stands for: one, or the same one in several wordings with the same answer."""


class Source:
    """The rows of a source, by scan and by place, as conversations. Holds no open file.

    Args:
        store: finds the rows.
        parse: makes conversations of one; must be picklable where workers are spawned.
        identity: what else the conversations follow from, such as a library of wordings.
    """

    def __init__(self, config: SourceConfig, store: RowStore, parse: Parse, identity: str = "") -> None:
        self.config = config
        self.store = store
        self._parse = parse
        self._identity = identity

    def over(self, store: RowStore, identity: str) -> Source:
        """Other rows, made conversations of in the same way."""
        return Source(self.config, store, self._parse, identity)

    @property
    def name(self) -> str:
        return self.config.name

    @cached_property
    def fingerprint(self) -> str:
        """Of the files; SHA-256 of the manifest where there is one."""
        return self.store.fingerprint

    @property
    def identity(self) -> str:
        """Two sources whose identity and fingerprint agree have the same conversations, but for their task."""
        options = self.config.model_dump(mode="json", include=set(ReaderConfig.model_fields) - {"path", "task"})
        # Where the files lie counts too: relative audio paths start from there.
        places = (*self.store.paths, self.config.audio_folder or "", self.config.tars or "")
        whole = [path if is_remote(path) else os.path.abspath(path) for path in places]
        return repr((whole, options, self._identity))

    def where(self, line: int, file: int = 0) -> str:
        """How errors name a row."""
        return self.store.where(line, file)

    def scan(self) -> Iterator[RawRow]:
        """Every row from the first to the last."""
        return scan_store(self.store)

    def read(self, line: int, offset: int, num_bytes: int, file: int = 0, key: int = 0) -> Conversation:
        """The conversation of one row, read from its place.

        Args:
            key: chooses among the wordings of the row.

        Raises:
            DataError: the row is no conversation.
        """
        return self.parse(self.store.fetch(line, offset, num_bytes, file), key)

    def parse(self, row: RawRow, key: int = 0) -> Conversation:
        """The conversation of a row; `key` chooses among its wordings.

        Raises:
            DataError: the row is not in the form of its file, or no conversation.
        """
        wordings = self._parse(self.store.decode(row))
        return self._with_task(wordings[key % len(wordings)])

    def wordings(self, row: RawRow) -> tuple[Conversation, ...]:
        """The conversation of a row in every wording; their answers are the same."""
        return tuple(map(self._with_task, self._parse(self.store.decode(row))))

    def _with_task(self, conversation: Conversation) -> Conversation:
        task = self.config.task
        return conversation if task is None else replace(conversation, task=task)
