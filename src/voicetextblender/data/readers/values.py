"""Named values of a row, asked for by what they mean."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from voicetextblender.chat.fields import refusal, show
from voicetextblender.data.readers.config import SourceConfig
from voicetextblender.data.readers.source import Item

USUAL_NAMES: Mapping[str, tuple[str, ...]] = {
    "id": ("id", "utt_id", "uid", "uuid", "key"),
    "audio": ("audio_filepath", "audio", "path", "file", "file_name", "wav"),
    "start": ("offset", "start"),
    "duration": ("duration",),
    "text": ("text", "sentence", "transcription", "transcript"),
    "translation": ("translation",),
    "question": ("question", "context", "prompt", "instruction"),
    "answer": ("answer", "response", "output"),
    "language": ("lang", "language", "source_lang", "src_lang", "locale"),
    "target_language": ("target_lang", "tgt_lang", "target_language"),
    "speaker": ("speaker", "speaker_id", "client_id", "spk_id"),
}
"""Under which names a column is looked for, the first that a row has; values that are empty are none."""


@dataclass(frozen=True)
class Values:
    """A row whose values are asked for by what they mean."""

    item: Item
    config: SourceConfig

    def get(self, column: str) -> Any:
        """The value, if the row has one that is not empty; else that of the recipe, for languages."""
        own = getattr(self.config.columns, column)
        for name in USUAL_NAMES[column] if own is None else (own,):
            if own is not None and name not in self.item.value:
                known = ", ".join(f"'{key}'" for key in self.item.value)
                expected = f"columns.{column} says it has, beside {known}"
                raise refusal(self.item.where, f"the row lacks '{name}'", expected, "Correct columns, or the row")
            value = self.item.value.get(name)
            if value is not None and not (isinstance(value, str) and not value.strip()):
                return value
        return getattr(self.config, column, None) if column in ("language", "target_language") else None

    def text(self, column: str) -> str | None:
        value = self.get(column)
        if isinstance(value, int) and column in ("id", "speaker"):
            return str(value)
        if value is not None and not isinstance(value, str):
            raise refusal(
                self.item.where, f"the {column} is {show(value)}", "a text is expected", "Write it as a string"
            )
        return value

    def need(self, column: str) -> str:
        value = self.text(column)
        if value is None:
            names = getattr(self.config.columns, column) or "', '".join(USUAL_NAMES[column])
            fix = "Fill it, or name its column in columns"
            raise refusal(
                self.item.where, f"the row has no {column.replace('_', ' ')}", f"'{names}' is looked for", fix
            )
        return value

    def seconds(self, column: str) -> float | None:
        value = self.get(column)
        try:
            number = None if value is None else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if number is not None and not (math.isfinite(number) and number >= 0):
            expected = "a number of seconds, at least 0, is expected"
            raise refusal(self.item.where, f"the {column} is {show(value)}", expected, "Correct it")
        return number


def take_encoded(clip: Mapping[str, Any], item: Item) -> tuple[bytes, str]:
    """The audio file in `bytes`, and what it is called.

    Raises:
        DataError: these are no bytes.
    """
    encoded, name = clip["bytes"], clip.get("path") or item.id
    if not isinstance(encoded, bytes) or not isinstance(name, str):
        raise refusal(item.where, f"a clip is {show(clip)}", "bytes and a path are expected", "Make the row again")
    return encoded, name
