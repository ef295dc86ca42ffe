"""A conversation of text and speech, and its JSON form (one line of a manifest)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from voicetextblender.audio.storage import is_remote, join_path
from voicetextblender.chat.fields import check_object, refusal, show, take_count, take_seconds, take_text

Role = Literal["system", "user", "assistant"]

ROLES: tuple[Role, ...] = ("system", "user", "assistant")
KINDS = ("transcription", "translation", "answering", "mixed", "instruction", "text")
"""The tasks that the package itself makes; a manifest may name any other."""

_ROW_KEYS = ("id", "task", "language", "messages", "metadata")
_TURN_KEYS = ("role", "content")
_TEXT_KEYS = ("type", "text")
_AUDIO_KEYS = ("type", "path", "start", "duration", "transcript", "byte_offset", "num_bytes")


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
        byte_offset: Where the audio file begins inside the file at `path`, such as an uncompressed tar.
        num_bytes: Size of the audio file inside the file at `path`; None for all that follows `byte_offset`.
        encoded: The audio file itself, of which `path` is then only the name; not part of equality.
    """

    path: str | None
    start_s: float = 0.0
    duration_s: float | None = None
    transcript: str | None = None
    waveform: np.ndarray | None = field(default=None, compare=False, repr=False)
    byte_offset: int = 0
    num_bytes: int | None = None
    encoded: bytes | None = field(default=None, compare=False, repr=False)


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


def parse_conversation(row: Any, where: str, base_dir: str | Path) -> Conversation:
    """The conversation that a manifest line stands for.

    Args:
        row: The decoded JSON of the line.
        where: Name of the line for error texts, such as `data/train.jsonl:12`.
        base_dir: The folder that relative audio paths start from (the manifest's own).

    Raises:
        DataError: A field is missing, unknown or of a wrong type, a role is unknown, or an assistant turn holds audio.
    """
    check_object(row, _ROW_KEYS, ("id", "messages"), "a conversation", where)
    messages = row["messages"]
    if not isinstance(messages, list) or not messages:
        raise refusal(
            where, f"'messages' is {show(messages)}", "a list of at least one turn is expected", "Write turns"
        )
    return Conversation(
        id=take_text(row, "id", where),
        turns=tuple(
            _parse_turn(message, f"{where} turn {number}", base_dir) for number, message in enumerate(messages, 1)
        ),
        task=take_text(row, "task", where) if row.get("task") is not None else "text",
        language=take_text(row, "language", where) if row.get("language") is not None else None,
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
        raise refusal(
            where,
            "the assistant turn holds audio",
            "audio may stand in system and user turns only",
            "Move the clip, or write its words",
        )


def _parse_turn(message: Any, where: str, base_dir: str | Path) -> Turn:
    check_object(message, _TURN_KEYS, _TURN_KEYS, "a turn", where)
    role, content = message["role"], message["content"]
    if role not in ROLES:
        raise refusal(
            where, f"role is {show(role)}", "a role is one of 'system', 'user', 'assistant'", "Rename the role"
        )
    if isinstance(content, str):
        return Turn(role, (TextPart(content),))
    if not isinstance(content, list):
        raise refusal(where, f"'content' is {show(content)}", "a string or a list of parts is expected", "Write one")
    turn = Turn(role, tuple(_parse_part(part, f"{where} part {n}", base_dir) for n, part in enumerate(content, 1)))
    check_turn(turn, where)
    return turn


def _parse_part(part: Any, where: str, base_dir: str | Path) -> Part:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text":
        check_object(part, _TEXT_KEYS, _TEXT_KEYS, "a text part", where)
        return TextPart(take_text(part, "text", where, may_be_empty=True))
    if kind == "audio":
        check_object(part, _AUDIO_KEYS, ("path",), "an audio part", where)
        return AudioPart(
            path=join_path(base_dir, take_text(part, "path", where)),
            start_s=take_seconds(part, "start", where, lambda value: value >= 0.0, "at least 0 s") or 0.0,
            duration_s=take_seconds(part, "duration", where, lambda value: value > 0.0, "more than 0 s"),
            transcript=take_text(part, "transcript", where, True) if part.get("transcript") is not None else None,
            byte_offset=take_count(part, "byte_offset", where) or 0,
            num_bytes=take_count(part, "num_bytes", where),
        )
    raise refusal(
        where, f"the part is {show(part)}", "a part is an object whose 'type' is 'text' or 'audio'", "Change the part"
    )


def _content_to_json(turn: Turn, where: str, base_dir: Path | None) -> str | list[dict[str, Any]]:
    if len(turn.parts) == 1 and isinstance(turn.parts[0], TextPart):
        return turn.parts[0].text
    return [
        {"type": "text", "text": part.text} if isinstance(part, TextPart) else _audio_to_json(part, where, base_dir)
        for part in turn.parts
    ]


def _audio_to_json(clip: AudioPart, where: str, base_dir: Path | None) -> dict[str, Any]:
    if clip.path is None or clip.encoded is not None:
        raise refusal(
            where, "a clip is only in memory", "a manifest line names audio files", "Write the waveform first"
        )
    part: dict[str, Any] = {"type": "audio", "path": _path_from(clip.path, base_dir)}
    if clip.start_s:
        part["start"] = clip.start_s
    if clip.duration_s is not None:
        part["duration"] = clip.duration_s
    if clip.transcript is not None:
        part["transcript"] = clip.transcript
    if clip.byte_offset:
        part["byte_offset"] = clip.byte_offset
    if clip.num_bytes is not None:
        part["num_bytes"] = clip.num_bytes
    return part


def _path_from(path: str, base_dir: Path | None) -> str:
    if base_dir is None or is_remote(path):
        return path
    absolute = Path(os.path.abspath(path))
    folder = Path(os.path.abspath(base_dir))
    return str(absolute.relative_to(folder)) if absolute.is_relative_to(folder) else str(absolute)


def _metadata(row: dict[str, Any], where: str) -> Mapping[str, Any]:
    value = row.get("metadata")
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise refusal(
            where, f"'metadata' is {show(value)}", "an object is expected", "Write an object, or leave it out"
        )
    return cast(dict[str, Any], value)
