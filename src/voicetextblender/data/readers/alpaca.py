"""Rows of one instruction and its answer, in the shape of Alpaca."""

from __future__ import annotations

from voicetextblender.chat.conversation import Conversation, Role, TextPart, Turn
from voicetextblender.chat.fields import refusal, show
from voicetextblender.data.readers.source import Item
from voicetextblender.data.readers.talk import need_object


def parse_alpaca(item: Item) -> tuple[Conversation, ...]:
    """A row with `instruction`, `input`, `output` and, where there is one, `system` and `history`."""
    row = need_object(item.value, item.where)
    for key in ("instruction", "output"):
        if not isinstance(row.get(key), str) or not row[key]:
            found = f"'{key}' is {show(row.get(key))}"
            raise refusal(item.where, found, "a text is expected", f"Write '{key}' as a string")
    said: list[tuple[Role, str]] = [("system", str(row["system"]))] if row.get("system") else []
    for pair in row.get("history") or ():
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            found, expected = f"'history' holds {show(pair)}", "it is a list of pairs of question and answer"
            raise refusal(item.where, found, expected, "Rewrite it")
        said += [("user", str(pair[0])), ("assistant", str(pair[1]))]
    asked = "\n".join(text for text in (row["instruction"], row.get("input")) if text)
    said += [("user", asked), ("assistant", row["output"])]
    turns = tuple(Turn(role, (TextPart(text),)) for role, text in said)
    return (Conversation(str(row.get("id") or item.id), turns, "text"),)
