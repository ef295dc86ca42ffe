"""The held-out conversations of a row of the report, in whatever shape they lie."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from voicetextblender.audio.storage import StoredAudio, is_remote
from voicetextblender.chat.clips import stored_audio
from voicetextblender.chat.conversation import AudioPart, Conversation, Turn
from voicetextblender.data.held_out import held_out_side
from voicetextblender.data.readers.config import SourceConfig
from voicetextblender.data.readers.source import Source
from voicetextblender.data.sources import CACHE_DIR, open_source
from voicetextblender.errors import DataError, RecipeError, VoiceTextBlenderError, describe, describe_many
from voicetextblender.evaluate.config import RowConfig
from voicetextblender.files import derive_seed, fingerprint, write_atomically


def open_row(
    name: str, row: RowConfig, sources: Mapping[str, SourceConfig] | None = None, cache_dir: Path = CACHE_DIR
) -> Source:
    """What a row reads: a manifest, rows of any kind, or what a source of the training holds out.

    Args:
        sources: of the training, by name.

    Raises:
        RecipeError: a source that the training does not have, or that holds nothing out.
        DataError: no such files.
    """
    if row.source is not None:
        known = {one.name: one for one in (sources or {}).values() if one.held_out is not None}
        if row.source not in known:
            found, expected = f"no source '{row.source}' with held_out", f"there are {', '.join(known) or 'none'}"
            fix = "Name one of these, or give that source held_out"
            raise RecipeError(describe(f"evaluate.rows.{name}.source", found, expected, fix))
        return held_out_side(open_source(known[row.source], cache_dir), cache_dir)
    if row.reader is not None:
        return open_source(SourceConfig(name=name, **row.reader.model_dump()), cache_dir)
    return open_source(SourceConfig(name=name, path=str(row.manifest)), cache_dir)


def read_conversations(row: str, source: Source, max_items: int | None) -> tuple[list[Conversation], int]:
    """The conversations of a row, each in one of its wordings, and how many `max_items` leaves out.

    Raises:
        DataError: there is none, one cannot be parsed or asks for no reply, an id comes twice.
    """
    lines = source.scan()
    found: dict[str, Conversation] = {}
    problems = []
    for line in islice(lines, max_items):
        where = source.where(line.line, line.file)
        try:
            conversation = source.parse(line, derive_seed("evaluate", line.file, line.line))
            _check(conversation, found, where)
            found[conversation.id] = conversation
        except VoiceTextBlenderError as error:
            problems.append(str(error))
    if problems:
        raise DataError(describe_many(problems))
    if not found:
        what = f"'{source.config.path}' holds no conversation"
        raise DataError(describe(f"row '{row}'", what, "at least one is needed", "Fill the manifest"))
    return list(found.values()), sum(1 for _ in lines)


def keep_clips(conversations: Sequence[Conversation], folder: Path) -> list[Conversation]:
    """The same conversations with every clip in a file; those that came as bytes are written to `folder`."""
    return [
        replace(one, turns=tuple(_keep_clips_of(turn, folder) for turn in one.turns)) if one.clips else one
        for one in conversations
    ]


def asked_turns(conversation: Conversation) -> Iterator[int]:
    """Positions of the assistant turns that are generated and scored: those that answer a user turn."""
    for position, (before, turn) in enumerate(zip(conversation.turns, conversation.turns[1:], strict=False), 1):
        if turn.role == "assistant" and before.role == "user":
            yield position


def fingerprint_clips(row: str, conversations: Sequence[Conversation]) -> list[str]:
    """Of the content of every file that is heard.

    Raises:
        DataError: files that do not exist.
    """
    clips = {
        str(audio): audio
        for one in conversations
        for clip in one.clips
        if clip.path is not None and (audio := stored_audio(clip))
    }
    missing = [path for path, audio in clips.items() if isinstance(audio, str) and not Path(path).is_file()]
    if missing:
        fix = "Correct the path"
        problems = [
            describe(f"row {row}", f"audio '{path}' does not exist", "an audio file is needed", fix) for path in missing
        ]
        raise DataError(describe_many(problems))
    return [_fingerprint(clips[path]) for path in sorted(clips)]


def _fingerprint(audio: str | StoredAudio) -> str:
    if isinstance(audio, str):
        return fingerprint(Path(audio))
    if is_remote(audio.path):  # fetched once, when it is heard
        return str(audio)
    return hashlib.sha256(audio.open().getbuffer()).hexdigest()


def _check(conversation: Conversation, earlier: Container[str], where: str) -> None:
    if conversation.id in earlier:
        what = f"the id '{conversation.id}' was used before"
        raise DataError(describe(where, what, "ids are unique within a manifest", "Rename it"))
    if not list(asked_turns(conversation)):
        what, expected = "no assistant turn follows a user turn", "there must be a reply to compare with"
        raise DataError(describe(where, what, expected, "Add one, or remove the line"))


def _keep_clips_of(turn: Turn, folder: Path) -> Turn:
    parts = tuple(_keep(part, folder) if isinstance(part, AudioPart) and part.encoded else part for part in turn.parts)
    return Turn(turn.role, parts)


def _keep(clip: AudioPart, folder: Path) -> AudioPart:
    assert clip.encoded is not None and clip.path is not None
    path = folder / f"{hashlib.sha256(clip.encoded).hexdigest()[:24]}{Path(clip.path).suffix}"
    if not path.is_file():
        with write_atomically(path) as temporary:
            temporary.write_bytes(clip.encoded)
    return replace(clip, path=str(path), encoded=None)
