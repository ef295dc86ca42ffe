"""Rows of one instruction and its answer, in the shape of Alpaca."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from voicetextblender.chat.conversation import Conversation, Role, TextPart, Turn
from voicetextblender.chat.fields import refusal, show, take_text
from voicetextblender.data.readers.source import Item
from voicetextblender.data.readers.talk import need_object


def parse_alpaca(item: Item) -> tuple[Conversation, ...]:
    """A row with `instruction`, `input`, `output` and, where there is one, `system` and `history`."""
    row, where = need_object(item.value, item.where), item.where
    for key in ("instruction", "output"):
        if key not in row:
            found, expected = f"the row lacks '{key}'", "it must have 'instruction' and 'output'"
            raise refusal(where, found, expected, f"Add '{key}'")
    said: list[tuple[Role, str]] = [("system", take_text(row, "system", where))] if row.get("system") else []
    for pair in _pairs(row.get("history") or [], where):
        said += zip(("user", "assistant"), pair, strict=True)
    asked = [take_text(row, key, where) for key in ("instruction", "input") if row.get(key) or key == "instruction"]
    said += [("user", "\n".join(asked)), ("assistant", take_text(row, "output", where))]
    turns = tuple(Turn(role, (TextPart(text),)) for role, text in said)
    return (Conversation(str(row.get("id") or item.id), turns, "text"),)


def _pairs(history: Any, where: str) -> Iterator[tuple[str, str]]:
    """What was said before, as question and answer."""
    for pair in history if isinstance(history, list) else [history]:
        match pair:
            case [str(question), str(answer)]:
                yield question, answer
            case _:
                expected = "it is a list of pairs of question and answer"
                raise refusal(where, f"'history' holds {show(pair)}", expected, "Rewrite it")
