"""NeMo manifests: clips with their text or question, in files or tars, and multimodal conversations."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voicetextblender.audio.storage import join_path
from voicetextblender.chat.conversation import AudioPart, Conversation, Part, TextPart, Turn, check_turn
from voicetextblender.chat.fields import refusal, show, take_seconds, take_text
from voicetextblender.chat.slots import fill_slots
from voicetextblender.data.readers.columns import ColumnsParser
from voicetextblender.data.readers.config import SourceConfig
from voicetextblender.data.readers.lines import JsonRows
from voicetextblender.data.readers.source import Item, Source
from voicetextblender.data.readers.spoken import Wordings
from voicetextblender.data.readers.talk import need_object, need_role
from voicetextblender.data.readers.tar import Tars

MARKS = ("<unused0>", "<audio_locator>", "<audio>", "|audioplaceholder|")
"""Where the clip of a row is heard, in released manifests and examples."""
_SUB = re.compile(r"-sub\d+(?=\.\w+$|$)")
"""NeMo's mark of one of several segments of a tar member."""
_SHARD = re.compile(r".*_(\d+)[^/]*$")


def open_nemo(config: SourceConfig, cache_dir: Path) -> Source:
    """Manifests of the kinds nemo, nemo_tarred and nemo_conversation."""
    store = JsonRows(config.path, config.name, cache_dir, folder=config.audio_folder)
    wordings = Wordings(config.prompts)
    identity = wordings.fingerprint
    locate = None
    if config.tars is not None:
        tars = Tars(config.tars, config.name, cache_dir)
        identity += tars.fingerprint
        locate = InTars(tars, len(store.paths))
    marks = MARKS if config.audio_mark is None else (config.audio_mark,)
    return Source(config, store, NemoParser(ColumnsParser(config, wordings, locate), marks), identity)


@dataclass(frozen=True)
class InTars:
    """Finds the clip of a row in the tar file that belongs to its manifest, or that its `shard_id` names."""

    tars: Tars
    num_manifests: int

    def __call__(self, path: str, item: Item) -> AudioPart:
        whole = _SUB.sub("", path)
        return self.tars.find(self._tar_of(item), (path, whole, whole.rpartition("/")[2]), item.where)

    def _tar_of(self, item: Item) -> int:
        num_tars = len(self.tars.paths)
        if num_tars == self.num_manifests:
            return item.file
        shard = item.value.get("shard_id")
        numbers = [int(match[1]) if (match := _SHARD.match(path)) else None for path in self.tars.paths]
        if shard not in numbers or shard is None:
            expected = f"a row tells which of the {num_tars} tars has its clip"
            raise refusal(item.where, f"'shard_id' is {show(shard)}", expected, "Correct it, or tars")
        return numbers.index(shard)


@dataclass(frozen=True)
class NemoParser:
    """Makes conversations of the rows of NeMo manifests; those with `conversations` are taken turn by turn.

    Args:
        columns: parser of all other rows.
        marks: texts that stand where the clip of a row with `audio_filepath` and `conversations` is heard.
    """

    columns: ColumnsParser
    marks: tuple[str, ...]

    def __call__(self, item: Item) -> Sequence[Conversation]:
        row = need_object(item.value, item.where)
        if "conversations" not in row:
            return self.columns(item)
        said = row["conversations"]
        if not isinstance(said, list) or not said:
            raise refusal(item.where, f"'conversations' is {show(said)}", "a list of turns is expected", "Write turns")
        turns = [Turn("system", (TextPart(take_text(row, "system", item.where)),))] if row.get("system") else []
        clip = self._clip(row, "audio_filepath", item) if "audio_filepath" in row else None
        for number, value in enumerate(said, 1):
            where = f"{item.where} turn {number}"
            turn = self._turn(need_object(value, where), clip, where, item)
            if turns and turns[-1].role == turn.role:  # NeMo writes the parts of a turn one by one
                turn = Turn(turn.role, (*turns.pop().parts, TextPart(" "), *turn.parts))
            turns.append(turn)
        num_clips = sum(len(turn.clips) for turn in turns)
        if clip is not None and num_clips != 1:
            found = f"{num_clips} marks for the clip"
            expected = f"one turn has the mark, {' or '.join(self.marks)}"
            raise refusal(item.where, found, expected, "Set audio_mark, or mend the row")
        language = take_text(row, "target_lang", item.where) if row.get("target_lang") else self.columns.config.language
        name = str(row.get("id") or item.id)
        return (Conversation(name, tuple(turns), "mixed" if num_clips else "text", language),)

    def _turn(self, value: Mapping[str, Any], clip: AudioPart | None, where: str, item: Item) -> Turn:
        role = need_role(value.get("from"), where)
        if value.get("type", "text") == "audio":
            turn = Turn(role, (self._clip(value, "value", item._replace(where=where)),))
            check_turn(turn, where)
            return turn
        if value.get("type", "text") != "text":
            found, expected = f"'type' is {show(value['type'])}", "a turn is 'text' or 'audio'"
            raise refusal(where, found, expected, "Correct the type")
        if "value" not in value:
            raise refusal(where, "the turn lacks 'value'", "it must have 'from' and 'value'", "Add 'value'")
        text = take_text(value, "value", where, may_be_empty=True)
        mark = next((mark for mark in self.marks if clip is not None and mark in text), None)
        if mark is None or clip is None or role == "assistant":
            return Turn(role, (TextPart(text),))
        parts: tuple[Part, ...] = fill_slots(text, [clip] * text.count(mark), mark)
        return Turn(role, parts)

    def _clip(self, value: Mapping[str, Any], key: str, item: Item) -> AudioPart:
        path = take_text(value, key, item.where)
        start_s = take_seconds(value, "offset", item.where, lambda number: number >= 0, "at least 0 s") or 0.0
        duration_s = take_seconds(value, "duration", item.where, lambda number: number > 0, "more than 0 s")
        if self.columns.locate is None:
            return AudioPart(join_path(item.folder, path), start_s, duration_s)
        found = self.columns.locate(path, item)
        return AudioPart(found.path, start_s, duration_s, byte_offset=found.byte_offset, num_bytes=found.num_bytes)
