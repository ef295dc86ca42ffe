"""Sources: what a recipe points at, and readers that turn each of its rows into a conversation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field

from voicetextblender.chat.conversation import Conversation, parse_conversation
from voicetextblender.config import StrictConfig
from voicetextblender.errors import DataError, describe
from voicetextblender.files import fingerprint


class SourceConfig(StrictConfig):
    """One source of a blend.

    Args:
        name: how the recipe, the logs and the reports call it.
        path: the manifest, relative to the working directory; audio paths in it are relative to its own folder.
        weight: share of the draws, on any scale; 0 leaves the source out.
        kind: how the file is read; "jsonl" is one conversation per line.
        task: the kind of every conversation of the source, in place of what its rows say.
    """

    name: str = Field(min_length=1)
    path: str = Field(min_length=1)
    weight: float = Field(1.0, ge=0, allow_inf_nan=False)
    kind: Literal["jsonl"] = "jsonl"
    task: str | None = None


class RawRow(NamedTuple):
    """One row as it lies in its file: number of the line from 1, byte offset, bytes."""

    line: int
    offset: int
    content: bytes


class JsonLinesSource:
    """A manifest of one conversation per line; any row can be read by its offset. Blank lines are no rows.

    Raises:
        DataError: the file does not exist.
    """

    def __init__(self, config: SourceConfig) -> None:
        self.config = config
        self.path = Path(config.path)
        if not self.path.is_file():
            found = "is a folder" if self.path.is_dir() else "does not exist"
            where = f"source '{config.name}'"
            raise DataError(describe(where, f"'{self.path}' {found}", "a manifest is a file", "Correct the path"))

    @property
    def name(self) -> str:
        return self.config.name

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the manifest."""
        return fingerprint(self.path)

    def where(self, line: int) -> str:
        """How errors name a row."""
        return f"{self.path}:{line}"

    def scan(self) -> Iterator[RawRow]:
        """Every row from the first to the last."""
        offset = 0
        with self.path.open("rb") as file:
            for line, content in enumerate(file, start=1):
                if content.strip():
                    yield RawRow(line, offset, content)
                offset += len(content)

    def read(self, line: int, offset: int, num_bytes: int) -> Conversation:
        """The conversation of one row, read from its place in the file.

        Raises:
            DataError: the row is no conversation.
        """
        # Opened anew each time: an open file shared by forked workers would share its position too.
        with self.path.open("rb") as file:
            file.seek(offset)
            return self.parse(RawRow(line, offset, file.read(num_bytes)))

    def parse(self, row: RawRow) -> Conversation:
        """The conversation of a row.

        Raises:
            DataError: the row is no JSON object, or no conversation.
        """
        where = self.where(row.line)
        conversation = parse_conversation(_load_json(row.content, where), where, self.path.parent)
        return conversation if self.config.task is None else replace(conversation, task=self.config.task)


def open_source(config: SourceConfig) -> JsonLinesSource:
    """The reader for the source's kind."""
    return {"jsonl": JsonLinesSource}[config.kind](config)


def _load_json(content: bytes, where: str) -> Any:
    expected, fix = "every line is one JSON object", "Mend the line or remove it"
    try:
        return json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(describe(where, f"no UTF-8 text at byte {error.start + 1}", expected, fix)) from None
    except json.JSONDecodeError as error:
        raise DataError(describe(where, f"no JSON at column {error.colno} ({error.msg})", expected, fix)) from None
    except (ValueError, RecursionError) as error:
        raise DataError(describe(where, f"no usable JSON ({error})", expected, fix)) from None
