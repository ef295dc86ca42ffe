"""Reads each row in both ways in which a training reads it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from voicetextblender.chat.conversation import AudioPart, Conversation
from voicetextblender.data.readers.source import Source

OpenKind = Callable[..., Source]
Upload = Callable[[Path], str]


def read_all(source: Source, key: int = 0) -> list[Conversation]:
    """Every conversation, read backwards by place; the same as by scan."""
    rows = list(source.scan())
    parsed = [source.parse(row, key) for row in rows]
    places = [(row.line, row.offset, len(row.content), row.file) for row in reversed(rows)]
    assert [source.read(*place, key) for place in places] == parsed[::-1]
    return parsed


def write_lines(path: Path, rows: Sequence[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def say(conversation: Conversation) -> list[str]:
    """The turns as text, a clip as the name of its file."""
    return [
        f"{turn.role}: "
        + "".join(
            f"[{Path(part.path or '').name}]" if isinstance(part, AudioPart) else part.text for part in turn.parts
        )
        for turn in conversation.turns
    ]
