"""Rows of one clip, put as conversations: transcribed, translated or asked about, in every wording there is."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from typing import Any, Literal, overload

import yaml

from voicetextblender.chat.conversation import AudioPart, Conversation, Part, TextPart, Turn
from voicetextblender.chat.slots import LANGUAGE_SLOT, QUESTION_SLOT, fill_slots
from voicetextblender.data.readers.config import PromptsConfig
from voicetextblender.errors import DataError, describe

SpokenTask = Literal["transcription", "translation", "answering"]
FALLBACK = "en"
"""The language of the wordings for speech in any language that has none."""


@dataclass(frozen=True)
class SpokenRow:
    """One clip and what is known of it.

    Args:
        answer: what the assistant is to write: the words, their translation, or the answer to `question`.
        language: code of the speech, such as "de" or "de-AT"; None where nobody knows.
        target_language: code of the translation; needed for that task.
        question: what is asked; needed for answering.
        speaker: who speaks.
    """

    id: str
    clip: AudioPart
    answer: str
    task: SpokenTask
    language: str | None = None
    target_language: str | None = None
    question: str | None = None
    speaker: str | None = None


class Wordings:
    """How clips are asked about: the package's library, what the recipe adds, or both."""

    def __init__(self, config: PromptsConfig) -> None:
        self.config = config
        self._prompts: dict[tuple[str | None, ...], tuple[str, ...]] = {}

    @cached_property
    def fingerprint(self) -> str:
        """Changes whenever a row could be worded differently."""
        return hashlib.sha256(repr((self.config, _read_library())).encode()).hexdigest()

    def conversations(self, row: SpokenRow, where: str) -> Sequence[Conversation]:
        """The row in every wording that fits its task and language; each is made when it is asked for.

        Raises:
            DataError: there is none, or the target language has no name in the library.
        """
        key = (row.task, base_language(row.language), base_language(row.target_language))
        if key not in self._prompts:
            self._prompts[key] = self._find_prompts(row, where)
        return _Worded(self._prompts[key], row)

    def _find_prompts(self, row: SpokenRow, where: str) -> tuple[str, ...]:
        prompts = _from_library(row, where) if self.config.package else []
        prompts += [_name_language(prompt, FALLBACK, row, where) for prompt in getattr(self.config, row.task)]
        if not prompts:
            expected = "with prompts.package false the recipe brings its own"
            fix = f"Add some to prompts.{row.task}"
            raise DataError(describe(where, f"there is no wording for a row of {row.task}", expected, fix))
        return tuple(prompts)


class _Worded(Sequence[Conversation]):
    """A row, asked in each of these ways."""

    def __init__(self, prompts: tuple[str, ...], row: SpokenRow) -> None:
        self._prompts = prompts
        self._row = row

    def __len__(self) -> int:
        return len(self._prompts)

    @overload
    def __getitem__(self, place: int) -> Conversation: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Conversation]: ...
    def __getitem__(self, place: int | slice) -> Conversation | Sequence[Conversation]:
        if isinstance(place, slice):
            return _Worded(self._prompts[place], self._row)
        return _ask(self._prompts[place], self._row)


def base_language(code: str | None) -> str | None:
    """The language without its country: "pt" of "pt-BR"."""
    return None if code is None else code.replace("_", "-").partition("-")[0].lower()


def _from_library(row: SpokenRow, where: str) -> list[str]:
    library = _read_library()
    spoken, target = base_language(row.language), base_language(row.target_language)
    candidates = [spoken, FALLBACK]
    if row.task == "translation":
        named = [one for one in (spoken, target) if target in library["languages"].get(one, ())]
        candidates = [*named, FALLBACK]
    return [
        _name_language(prompt, language, row, where)
        for language in dict.fromkeys(candidates)
        for prompt in library[row.task].get(language, ())
    ]


def _name_language(prompt: str, language: str | None, row: SpokenRow, where: str) -> str:
    """The wording with the name of the target language, as it is called in `language`."""
    if LANGUAGE_SLOT not in prompt:
        return prompt
    names = _read_library()["languages"][language]
    code = base_language(row.target_language)
    if code not in names:
        fix = f"Mend the code, or write prompts that name the language, without {LANGUAGE_SLOT}"
        raise DataError(describe(where, f"the target language is '{code}'", f"known are {', '.join(names)}", fix))
    return prompt.replace(LANGUAGE_SLOT, str(names[code]))


def _ask(prompt: str, row: SpokenRow) -> Conversation:
    parts: tuple[Part, ...] = fill_slots(prompt, [row.clip])
    if row.question is not None:
        parts = tuple(
            TextPart(part.text.replace(QUESTION_SLOT, row.question)) if isinstance(part, TextPart) else part
            for part in parts
        )
    turns = (Turn("user", parts), Turn("assistant", (TextPart(row.answer),)))
    return Conversation(row.id, turns, row.task, row.language, speaker_metadata(row.speaker))


def speaker_metadata(speaker: str | None) -> dict[str, str]:
    """What `Conversation.metadata` keeps of a speaker."""
    return {} if speaker is None else {"speaker": speaker}


@cache
def _read_library() -> dict[str, Any]:
    text = files(__package__).joinpath("wordings.yaml").read_text("utf-8")
    library: dict[str, Any] = yaml.safe_load(text)
    return library
