"""Rows of named values: speech with its text, translation or question, or a written question and answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from voicetextblender.audio.storage import join_path
from voicetextblender.chat.conversation import AudioPart, Conversation, TextPart, Turn
from voicetextblender.chat.fields import refusal, show
from voicetextblender.data.readers.config import SourceConfig
from voicetextblender.data.readers.source import Item
from voicetextblender.data.readers.spoken import SpokenRow, Wordings, base_language, speaker_metadata
from voicetextblender.data.readers.values import Values, take_encoded

Locate = Callable[[str, Item], AudioPart]
"""The clip that a path in a row stands for."""


@dataclass(frozen=True)
class ColumnsParser:
    """Makes conversations of rows of named values.

    A row with a clip and a question is asked that. One with a clip and a translation, or with a target language that
    is not its own, is translated; any other one with a clip is transcribed. One without a clip is a written question
    with its answer.

    Args:
        locate: finds a clip; beside the file with the rows when None.
    """

    config: SourceConfig
    wordings: Wordings
    locate: Locate | None = None

    def __call__(self, item: Item) -> Sequence[Conversation]:
        if not isinstance(item.value, Mapping):
            fix = "Rewrite it"
            raise refusal(item.where, f"found {show(item.value)}", "a row is an object with named values", fix)
        if item.value.get("_skipme"):
            expected, fix = "such a row is not for training", "Remove it, or skip it with data.on_bad_row"
            raise refusal(item.where, "the row is marked '_skipme'", expected, fix)
        row = Values(item, self.config)
        name = row.text("id") or item.id
        if row.get("audio") is None and self.config.kind in ("nemo", "nemo_tarred"):
            row.need("audio")
        if row.get("audio") is None:
            turns = (
                Turn("user", (TextPart(row.need("question")),)),
                Turn("assistant", (TextPart(row.need("answer")),)),
            )
            return (Conversation(name, turns, "text", row.text("language"), speaker_metadata(row.text("speaker"))),)
        spoken = replace(self._spoken(row, name), speaker=row.text("speaker"))
        return self.wordings.conversations(spoken, item.where)

    def _spoken(self, row: Values, name: str) -> SpokenRow:
        text, translation, question = row.text("text"), row.text("translation"), row.text("question")
        language, target = row.text("language"), row.text("target_language")
        if question is not None:
            answer = row.text("answer")
            clip = self._clip(row, None if answer is None else text)
            return SpokenRow(name, clip, answer or row.need("text"), "answering", language, question=question)
        if translation is not None:
            clip = self._clip(row, text)
            return SpokenRow(name, clip, translation, "translation", language, target or row.need("target_language"))
        words = text or row.text("answer") or row.need("text")
        if None not in (language, target) and base_language(language) != base_language(target):
            return SpokenRow(name, self._clip(row, None), words, "translation", language, target)
        return SpokenRow(name, self._clip(row, words), words, "transcription", language or target)

    def _clip(self, row: Values, transcript: str | None) -> AudioPart:
        start_s = row.seconds("start") or 0.0
        duration_s = row.seconds("duration")
        if duration_s == 0:
            duration_s = None
        value = row.get("audio")
        if isinstance(value, Mapping):  # as the datasets library keeps clips
            if value.get("bytes") is not None:
                encoded, name = take_encoded(value, row.item)
                return AudioPart(name, start_s, duration_s, transcript, encoded=encoded)
            value = value.get("path")
        if not isinstance(value, str) or not value:
            raise refusal(row.item.where, f"the clip is {show(value)}", "a path is expected", "Write the path")
        if self.locate is None:
            return AudioPart(join_path(row.item.folder, value), start_s, duration_s, transcript)
        found = self.locate(value, row.item)
        return AudioPart(
            found.path, start_s, duration_s, transcript, byte_offset=found.byte_offset, num_bytes=found.num_bytes
        )
