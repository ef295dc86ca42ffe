"""Rows that are conversations already, in the shapes of ShareGPT, LLaMA-Factory, ms-swift and OpenAI."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from voicetextblender.audio.storage import join_path
from voicetextblender.chat.conversation import AudioPart, Conversation, Part, Role, TextPart, Turn, check_turn
from voicetextblender.chat.fields import refusal, show, take_text
from voicetextblender.chat.slots import fill_slots
from voicetextblender.data.readers.source import Item
from voicetextblender.data.readers.values import take_encoded

SPEAKERS: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}
"""Who speaks, under the names of all these formats, in lower case."""


@dataclass(frozen=True)
class TalkParser:
    """Makes a conversation of a row with a list of turns, `messages` or `conversations`.

    The clips of such a row stand in its `audios` (or `audio`), one for each mark in the text; or the content of a turn
    is a list of parts, with clips as `audio`, `audio_url` or, in base64, `input_audio`.

    Args:
        mark: the text that stands where a clip is heard.
        language: language of the conversations.
    """

    mark: str = "<audio>"
    language: str | None = None

    def __call__(self, item: Item) -> tuple[Conversation, ...]:
        row = need_object(item.value, item.where)
        turns = row.get("messages", row.get("conversations"))
        if not isinstance(turns, list) or not turns:
            found, expected = f"the turns are {show(turns)}", "'messages' or 'conversations' holds a list of turns"
            raise refusal(item.where, found, expected, "Write turns, or choose another kind")
        audios = row.get("audios", row.get("audio"))
        values = audios if isinstance(audios, list) else [audios] if audios is not None else []
        clips = [_clip(value, item) for value in values] if values else None
        parsed: list[Turn] = []
        if row.get("system"):
            parsed.append(Turn("system", (TextPart(take_text(row, "system", item.where)),)))
        for number, turn in enumerate(turns, 1):
            parsed.append(self._turn(turn, clips, f"{item.where} turn {number}", item))
        if clips:
            num_marks = sum(len(turn.clips) for turn in parsed)
            found = f"{num_marks + len(clips)} clips and {num_marks} marks '{self.mark}'"
            raise refusal(item.where, found, "every clip has its mark", "Write the mark where the clip is heard")
        task = "mixed" if any(turn.clips for turn in parsed) else "text"
        return (Conversation(str(row.get("id") or item.id), tuple(parsed), task, self.language),)

    def _turn(self, value: Any, clips: list[AudioPart] | None, where: str, item: Item) -> Turn:
        turn = need_object(value, where)
        role = need_role(turn.get("role", turn.get("from")), where)
        content = turn.get("content", turn.get("value"))
        if isinstance(content, str):
            return Turn(role, self._place(content, clips, where) if role != "assistant" else (TextPart(content),))
        if not isinstance(content, list):
            raise refusal(
                where, f"the content is {show(content)}", "a text or a list of parts is expected", "Write one"
            )
        parts = [self._part(part, clips, f"{where} part {number}", item) for number, part in enumerate(content, 1)]
        parsed = Turn(role, tuple(part for several in parts for part in several))
        check_turn(parsed, where)
        return parsed

    def _place(self, text: str, clips: list[AudioPart] | None, where: str) -> tuple[Part, ...]:
        """The parts of a text, with the next clips in place of its marks; in a row without clips, marks are text."""
        if clips is None:
            return (TextPart(text),)
        count = text.count(self.mark)
        if count > len(clips):
            found = f"{count} marks '{self.mark}' and {len(clips)} clips left"
            raise refusal(where, found, "every mark has its clip", "Add the clips to 'audios', or remove marks")
        placed = fill_slots(text, clips[:count], self.mark)
        del clips[:count]
        return placed

    def _part(self, value: Any, clips: list[AudioPart] | None, where: str, item: Item) -> tuple[Part, ...]:
        part = need_object(value, where)
        kind = part.get("type")
        if kind == "text" and isinstance(part.get("text"), str):
            return self._place(part["text"], clips, where)
        if kind == "input_audio" and isinstance(part.get("input_audio"), Mapping):
            return (_decode(part["input_audio"].get("data"), where),)
        if kind in ("audio", "audio_url"):
            known = ("audio", "audio_url", "path", "url")
            return (_clip(next((part[key] for key in known if part.get(key)), None), item),)
        expected = "a part is of the type 'text', 'audio', 'audio_url' or 'input_audio'"
        raise refusal(where, f"the part is {show(value)}", expected, "Change the part")


def need_object(value: Any, where: str) -> Mapping[str, Any]:
    """The value, which must be a JSON object.

    Raises:
        DataError: it is none.
    """
    if not isinstance(value, Mapping):
        raise refusal(where, f"found {show(value)}", "an object with named values is expected", "Rewrite it")
    return value


def need_role(value: Any, where: str) -> Role:
    """Whose turn it is, from the name that the format has for them.

    Raises:
        DataError: it is nobody's.
    """
    role = SPEAKERS.get(value.lower()) if isinstance(value, str) else None
    if role is None:
        raise refusal(where, f"the speaker is {show(value)}", f"known are {', '.join(SPEAKERS)}", "Rename the speaker")
    return role


def _clip(value: Any, item: Item) -> AudioPart:
    if isinstance(value, Mapping):
        if value.get("bytes") is not None:
            encoded, name = take_encoded(value, item)
            return AudioPart(name, encoded=encoded)
        value = value.get("url") or value.get("path")
    if not isinstance(value, str) or not value:
        raise refusal(item.where, f"a clip is {show(value)}", "a path or URL is expected", "Write the path")
    if value.startswith("data:"):
        return _decode(value.partition(",")[2], item.where)
    return AudioPart(join_path(item.folder, value.removeprefix("file://")))


def _decode(value: Any, where: str) -> AudioPart:
    try:
        return AudioPart("clip in base64", encoded=base64.b64decode(value, validate=True))
    except (binascii.Error, TypeError, ValueError) as error:
        found = f"the clip cannot be decoded ({error})"
        raise refusal(where, found, "the bytes of an audio file in base64 are expected", "Encode it again") from None
