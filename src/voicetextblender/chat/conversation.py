"""A conversation of text and speech, and its JSON form (one line of a manifest)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from voicetextblender.errors import DataError, describe

Role = Literal["system", "user", "assistant"]

ROLES: tuple[Role, ...] = ("system", "user", "assistant")
KINDS = ("transcription", "translation", "answering", "mixed", "instruction", "text")
"""The tasks that the package itself makes; a manifest may name any other."""

_ROW_KEYS = ("id", "task", "language", "messages", "metadata")
_TURN_KEYS = ("role", "content")
_TEXT_KEYS = ("type", "text")
_AUDIO_KEYS = ("type", "path", "start", "duration", "transcript")


@dataclass(frozen=True)
class TextPart:
    """Written words."""

    text: str


@dataclass(frozen=True)
class AudioPart:
    """A clip: a segment of a file, or a waveform in memory.

    Args:
        path: The file; None for a clip that is only in memory.
        start_s: Where the segment begins, in seconds from the start of the file.
        duration_s: Length of the segment in seconds; None for all that follows `start_s`.
        transcript: What is said, where it is known; never shown to the model.
        waveform: Mono float32 samples at 16 kHz, taken instead of the file; not part of equality.
    """

    path: str | None
    start_s: float = 0.0
    duration_s: float | None = None
    transcript: str | None = None
    waveform: np.ndarray | None = field(default=None, compare=False, repr=False)


Part = TextPart | AudioPart


@dataclass(frozen=True)
class Turn:
    """What one side says at once: written and spoken parts in order."""

    role: Role
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """The written parts, joined as they stand."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))

    @property
    def clips(self) -> tuple[AudioPart, ...]:
        """The spoken parts, in order."""
        return tuple(part for part in self.parts if isinstance(part, AudioPart))


@dataclass(frozen=True)
class Conversation:
    """Turns in order, with the kind of task that they are an example of.

    Args:
        id: Name of the conversation, unique within its source.
        turns: The turns; audio stands in system and user turns only.
        task: One of `KINDS`, or any other name under which losses and scores are to be grouped.
        language: Language code of the speech or text, where one applies.
        metadata: Anything that JSON can hold; kept, never read by training.
    """

    id: str
    turns: tuple[Turn, ...]
    task: str = "text"
    language: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def clips(self) -> tuple[AudioPart, ...]:
        """The spoken parts of all turns, in order."""
        return tuple(clip for turn in self.turns for clip in turn.clips)


def parse_conversation(row: Any, where: str, base_dir: Path) -> Conversation:
    """The conversation that a manifest line stands for.

    Args:
        row: The decoded JSON of the line.
        where: Name of the line for error texts, such as `data/train.jsonl:12`.
        base_dir: The folder that relative audio paths start from (the manifest's own).

    Raises:
        DataError: A field is missing, unknown or of a wrong type, a role is unknown, or an assistant turn holds audio.
    """
    _check_object(row, _ROW_KEYS, ("id", "messages"), "a conversation", where)
    messages = row["messages"]
    if not isinstance(messages, list) or not messages:
        raise _bad(where, f"'messages' is {_show(messages)}", "a list of at least one turn is expected", "Write turns")
    return Conversation(
        id=_text(row, "id", where),
        turns=tuple(
            _parse_turn(message, f"{where} turn {number}", base_dir) for number, message in enumerate(messages, 1)
        ),
        task=_text(row, "task", where) if row.get("task") is not None else "text",
        language=_text(row, "language", where) if row.get("language") is not None else None,
        metadata=_metadata(row, where),
    )


def conversation_to_row(conversation: Conversation, base_dir: Path | None = None) -> dict[str, Any]:
    """The manifest line of a conversation, as an object for `json.dumps`; `parse_conversation` reads it back.

    Args:
        conversation: The conversation; its clips must be files.
        base_dir: Audio paths inside this folder are written relative to it, others absolute; all as they are when None.

    Raises:
        DataError: A clip is only in memory.
    """
    row: dict[str, Any] = {"id": conversation.id, "task": conversation.task}
    if conversation.language is not None:
        row["language"] = conversation.language
    row["messages"] = [
        {"role": turn.role, "content": _content_to_json(turn, f"conversation '{conversation.id}'", base_dir)}
        for turn in conversation.turns
    ]
    if conversation.metadata:
        row["metadata"] = dict(conversation.metadata)
    return row


def check_turn(turn: Turn, where: str) -> None:
    """Raise DataError when an assistant turn holds audio: the model writes, it does not speak."""
    if turn.role == "assistant" and turn.clips:
        raise _bad(
            where,
            "the assistant turn holds audio",
            "audio may stand in system and user turns only",
            "Move the clip, or write its words",
        )


def _parse_turn(message: Any, where: str, base_dir: Path) -> Turn:
    _check_object(message, _TURN_KEYS, _TURN_KEYS, "a turn", where)
    role, content = message["role"], message["content"]
    if role not in ROLES:
        raise _bad(where, f"role is {_show(role)}", "a role is one of 'system', 'user', 'assistant'", "Rename the role")
    if isinstance(content, str):
        return Turn(role, (TextPart(content),))
    if not isinstance(content, list):
        raise _bad(where, f"'content' is {_show(content)}", "a string or a list of parts is expected", "Write one")
    turn = Turn(role, tuple(_parse_part(part, f"{where} part {n}", base_dir) for n, part in enumerate(content, 1)))
    check_turn(turn, where)
    return turn


def _parse_part(part: Any, where: str, base_dir: Path) -> Part:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text":
        _check_object(part, _TEXT_KEYS, _TEXT_KEYS, "a text part", where)
        return TextPart(_text(part, "text", where, may_be_empty=True))
    if kind == "audio":
        _check_object(part, _AUDIO_KEYS, ("path",), "an audio part", where)
        return AudioPart(
            path=os.path.join(base_dir, _text(part, "path", where)),
            start_s=_seconds(part, "start", where, lambda value: value >= 0.0, "at least 0 s") or 0.0,
            duration_s=_seconds(part, "duration", where, lambda value: value > 0.0, "more than 0 s"),
            transcript=_text(part, "transcript", where, True) if part.get("transcript") is not None else None,
        )
    raise _bad(
        where, f"the part is {_show(part)}", "a part is an object whose 'type' is 'text' or 'audio'", "Change the part"
    )


def _content_to_json(turn: Turn, where: str, base_dir: Path | None) -> str | list[dict[str, Any]]:
    if len(turn.parts) == 1 and isinstance(turn.parts[0], TextPart):
        return turn.parts[0].text
    return [
        {"type": "text", "text": part.text} if isinstance(part, TextPart) else _audio_to_json(part, where, base_dir)
        for part in turn.parts
    ]


def _audio_to_json(clip: AudioPart, where: str, base_dir: Path | None) -> dict[str, Any]:
    if clip.path is None:
        raise _bad(where, "a clip is only in memory", "a manifest line names audio files", "Write the waveform first")
    part: dict[str, Any] = {"type": "audio", "path": _path_from(clip.path, base_dir)}
    if clip.start_s:
        part["start"] = clip.start_s
    if clip.duration_s is not None:
        part["duration"] = clip.duration_s
    if clip.transcript is not None:
        part["transcript"] = clip.transcript
    return part


def _path_from(path: str, base_dir: Path | None) -> str:
    if base_dir is None:
        return path
    absolute = Path(os.path.abspath(path))
    folder = Path(os.path.abspath(base_dir))
    return str(absolute.relative_to(folder)) if absolute.is_relative_to(folder) else str(absolute)


def _metadata(row: dict[str, Any], where: str) -> Mapping[str, Any]:
    value = row.get("metadata")
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _bad(where, f"'metadata' is {_show(value)}", "an object is expected", "Write an object, or leave it out")
    return cast(dict[str, Any], value)


def _check_object(value: Any, known: tuple[str, ...], needed: tuple[str, ...], what: str, where: str) -> None:
    """Raise DataError unless `value` is an object with all `needed` keys and none but the `known` ones."""
    names = ", ".join(f"'{key}'" for key in known)
    if not isinstance(value, dict):
        raise _bad(where, f"found {_show(value)}", f"{what} is an object with the keys {names}", "Rewrite it")
    for key in needed:
        if key not in value:
            raise _bad(where, f"{what} lacks '{key}'", f"it must have {_join(needed)}", f"Add '{key}'")
    for key in value:
        if key not in known:
            near = get_close_matches(str(key), known, n=1)
            fix = f"Write '{near[0]}'" if near else "Remove it, or put it under the conversation's 'metadata'"
            raise _bad(where, f"{what} has the unknown key '{key}'", f"known keys are {names}", fix)


def _text(row: dict[str, Any], key: str, where: str, may_be_empty: bool = False) -> str:
    value = row[key]
    if not isinstance(value, str) or not (value or may_be_empty):
        raise _bad(where, f"'{key}' is {_show(value)}", "a text is expected", f"Write '{key}' as a string")
    return value


def _seconds(
    row: dict[str, Any], key: str, where: str, is_allowed: Callable[[float], bool], expected: str
) -> float | None:
    value = row.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value) or not is_allowed(value):
        raise _bad(where, f"'{key}' is {_show(value)}", f"a number of seconds, {expected}, is expected", f"Fix '{key}'")
    return float(value)


def _join(keys: tuple[str, ...]) -> str:
    return " and ".join(f"'{key}'" for key in keys)


def _show(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _bad(where: str, found: str, expected: str, fix: str) -> DataError:
    return DataError(describe(where, found, expected, fix))
