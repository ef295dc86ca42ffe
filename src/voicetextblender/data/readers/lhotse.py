"""Lhotse cuts, with their recordings in files or in the tars of a Shar folder. Lhotse itself is not needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from voicetextblender.audio.storage import join_path
from voicetextblender.chat.conversation import AudioPart, Conversation
from voicetextblender.chat.fields import refusal, show, take_seconds, take_text
from voicetextblender.data.readers.columns import ColumnsParser
from voicetextblender.data.readers.config import SourceConfig
from voicetextblender.data.readers.files import AUDIO_SUFFIXES, expand_paths
from voicetextblender.data.readers.lines import JsonRows
from voicetextblender.data.readers.source import Item, Source
from voicetextblender.data.readers.spoken import Wordings
from voicetextblender.data.readers.talk import need_object
from voicetextblender.data.readers.tar import Tars
from voicetextblender.data.readers.values import USUAL_NAMES
from voicetextblender.errors import DataError, describe

TOLERANCE_S = 0.1
"""How far a supervision may reach out of its cut."""
_FROM_CUSTOM = ("translation", "question", "answer", "target_language")


def open_lhotse(config: SourceConfig, cache_dir: Path) -> Source:
    """Cuts of the kind lhotse: `cuts.jsonl` or `cuts.jsonl.gz`."""
    store = JsonRows(config.path, config.name, cache_dir, folder=config.audio_folder or ".")
    wordings = Wordings(config.prompts)
    return Source(config, store, CutParser(ColumnsParser(config, wordings)), wordings.fingerprint)


def open_shar(config: SourceConfig, cache_dir: Path) -> Source:
    """Cuts of the kind lhotse_shar: a folder of `cuts.000000.jsonl.gz`, ... and `recording.000000.tar`, ..."""
    folder = config.path.rstrip("/")
    cuts, recordings = join_path(folder, "cuts.*.jsonl*"), join_path(folder, "recording.*.tar")
    num_cuts, num_tars = len(expand_paths(cuts)), len(expand_paths(recordings))
    if not num_cuts or num_cuts != num_tars:
        found = f"'{folder}' has {num_cuts} files cuts.*.jsonl.gz and {num_tars} files recording.*.tar"
        expected, fix = "a Shar folder has as many of both", "Correct the path, or export with fields recording"
        raise DataError(describe(f"source '{config.name}'", found, expected, fix))
    store = JsonRows(cuts, config.name, cache_dir)
    tars = Tars(recordings, config.name, cache_dir)
    wordings = Wordings(config.prompts)
    parser = CutParser(ColumnsParser(config, wordings, InShar(tars)))
    return Source(config, store, parser, wordings.fingerprint + tars.fingerprint)


@dataclass(frozen=True)
class InShar:
    """Finds the recording of a cut in the tar of its shard, under the cut's id."""

    tars: Tars

    def __call__(self, path: str, item: Item) -> AudioPart:
        return self.tars.find(item.file, tuple(f"{path}{suffix}" for suffix in AUDIO_SUFFIXES), item.where)


@dataclass(frozen=True)
class CutParser:
    """Makes conversations of cuts of one channel, and of several in a row.

    What a question, answer or translation needs stands in `custom`.

    Args:
        columns: parser of the row that a cut becomes; with its `locate`, recordings are those of a Shar folder.
    """

    columns: ColumnsParser

    def __call__(self, item: Item) -> Sequence[Conversation]:
        cut = need_object(item.value, item.where)
        if cut.get("type") == "MixedCut" and self.columns.locate is None:
            return self._mixed(cut, item)
        return self.columns(item._replace(value=self._row(cut, item.where)))

    def _row(self, cut: Mapping[str, Any], where: str) -> dict[str, Any]:
        """A cut of one recording as named values."""
        if cut.get("type") != "MonoCut" or not isinstance(cut.get("recording"), Mapping):
            found = f"a {cut.get('type')} {'with' if 'recording' in cut else 'without'} a recording"
            fix = "Export it as one recording (cuts.save_audios), or remove it"
            raise refusal(where, found, "a MonoCut with a recording is needed", fix)
        recording, said = cut["recording"], _supervisions(cut, where)
        custom: dict[str, Any] = {}
        for one in (*said, cut):
            custom |= need_object(one.get("custom") or {}, where)
        row: dict[str, Any] = {
            "id": cut.get("id"),
            "audio": self._path(recording, cut, where),
            "start": cut.get("start"),
            "duration": cut.get("duration"),
            "lang": next((one["language"] for one in said if one.get("language")), None),
            "speaker": _only([one.get("speaker") for one in said]),
        }
        for column in _FROM_CUSTOM:
            row |= {name: custom[name] for name in USUAL_NAMES[column] if name in custom}
        if not any(row.get(name) for name in USUAL_NAMES["answer"]):
            _check_span(said, cut, where)
        row["text"] = " ".join(take_text(one, "text", where) for one in said if one.get("text")) or None
        return row

    def _mixed(self, mixed: Mapping[str, Any], item: Item) -> tuple[Conversation, ...]:
        """Cuts that were padded, or appended to each other: one clip after the other, the padding left out."""
        rows = [self._row(cut, item.where) for cut in _cuts_in_turn(mixed, item.where)]
        whole = {name: value for row in reversed(rows) for name, value in row.items() if value is not None}
        whole |= {"id": mixed.get("id"), "speaker": _only([row["speaker"] for row in rows])}
        whole["text"] = " ".join(row["text"] for row in rows if row["text"])
        heard = ("audio", "start", "duration")
        each = [whole | {name: row[name] for name in heard} for row in rows]
        clips = [_only_clip(self.columns(item._replace(value=one))) for one in each]
        clips = [replace(clip, transcript=row["text"]) for clip, row in zip(clips, rows, strict=True)]
        return tuple(_hear_all(one, clips) for one in self.columns(item._replace(value=whole)))

    def _path(self, recording: Mapping[str, Any], cut: Mapping[str, Any], where: str) -> Any:
        fix = "Export the cuts anew with their audio (cuts.save_audios)"
        if recording.get("transforms"):
            found = f"the recording has transforms, {show(recording['transforms'])}"
            raise refusal(where, found, "recordings are read as they lie in their files", fix)
        if recording.get("channel_ids") not in (None, [0]):
            channels = show(recording["channel_ids"])
            found = f"the recording has the channels {channels}, the cut is of {show(cut.get('channel'))}"
            raise refusal(where, found, "a recording has one channel", fix)
        if self.columns.locate is not None:
            return cut.get("id")
        match recording.get("sources"):
            case [{"type": "file" | "url", "source": str(path)}]:
                return path
            case sources:
                expected = "one of the type 'file' or 'url' is needed"
                raise refusal(where, f"the sources are {show(sources)}", expected, fix)


def _supervisions(cut: Mapping[str, Any], where: str) -> list[Mapping[str, Any]]:
    """What is said in a cut, in order of time."""
    said = cut.get("supervisions") or []
    if not isinstance(said, list):
        raise refusal(where, f"the supervisions are {show(said)}", "a list is expected", "Mend the cut")
    return sorted((need_object(one, where) for one in said), key=lambda one: _seconds(one, "start", where))


def _cuts_in_turn(mixed: Mapping[str, Any], where: str) -> list[Mapping[str, Any]]:
    """The cuts of a mix that are heard one after the other.

    Raises:
        DataError: they are not: two sound at once, or what is heard is not what lies in the files.
    """
    tracks = mixed.get("tracks")
    fix = "Export it as one recording (cuts.save_audios), or remove it"
    if not isinstance(tracks, list) or not tracks:
        raise refusal(where, f"'tracks' is {show(tracks)}", "a MixedCut has a list of tracks", fix)
    heard, end_s = [], 0.0
    for track in sorted((need_object(one, where) for one in tracks), key=lambda one: _seconds(one, "offset", where)):
        cut = need_object(track.get("cut"), where)
        if cut.get("type") == "PaddingCut":
            continue
        if track.get("snr") is not None or mixed.get("transforms"):
            raise refusal(where, "a MixedCut with noise or transforms", "tracks as they lie in their files", fix)
        begin_s = _seconds(track, "offset", where)
        if begin_s < end_s - TOLERANCE_S:
            found = f"a track of a MixedCut begins at {begin_s:.2f} s, the one before ends at {end_s:.2f} s"
            raise refusal(where, found, "tracks follow each other", fix)
        end_s = begin_s + _seconds(cut, "duration", where)
        heard.append(cut)
    if not heard:
        raise refusal(where, "a MixedCut of padding alone", "at least one recording is needed", "Remove it")
    return heard


def _only(values: list[Any]) -> Any:
    """The value that all have; None if they differ."""
    return values[0] if values and all(value == values[0] for value in values) else None


def _only_clip(wordings: Sequence[Conversation]) -> AudioPart:
    (clip,) = wordings[0].clips
    return clip


def _hear_all(conversation: Conversation, clips: list[AudioPart]) -> Conversation:
    """The conversation with these clips in place of its one."""
    turns = [
        replace(
            turn, parts=tuple(one for part in turn.parts for one in (clips if isinstance(part, AudioPart) else [part]))
        )
        for turn in conversation.turns
    ]
    return replace(conversation, turns=tuple(turns))


def _seconds(values: Mapping[str, Any], key: str, where: str) -> float:
    return take_seconds(values, key, where, lambda number: True, "of either sign") or 0.0


def _check_span(said: list[Mapping[str, Any]], cut: Mapping[str, Any], where: str) -> None:
    """Refuse a cut that was made shorter than what its supervisions say."""
    length_s = _seconds(cut, "duration", where)
    for one in said:
        start_s = _seconds(one, "start", where)
        stop_s = start_s + _seconds(one, "duration", where)
        if start_s < -TOLERANCE_S or stop_s > length_s + TOLERANCE_S:
            found = f"a supervision goes from {start_s:.2f} s to {stop_s:.2f} s of a cut of {length_s:.2f} s"
            fix = "Cut along the supervisions (cuts.trim_to_supervisions)"
            raise refusal(where, found, "all that is said must be heard", fix)
