"""Lhotse cuts, with their recordings in files or in the tars of a Shar folder. Lhotse itself is not needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voicetextblender.chat.conversation import AudioPart, Conversation
from voicetextblender.chat.fields import refusal, show
from voicetextblender.data.readers.columns import ColumnsParser
from voicetextblender.data.readers.config import SourceConfig
from voicetextblender.data.readers.folder import AUDIO_SUFFIXES
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
    folder = Path(config.path)
    num_cuts, num_tars = len(list(folder.glob("cuts.*.jsonl*"))), len(list(folder.glob("recording.*.tar")))
    if not num_cuts or num_cuts != num_tars:
        found = f"'{folder}' has {num_cuts} files cuts.*.jsonl.gz and {num_tars} files recording.*.tar"
        expected, fix = "a Shar folder has as many of both", "Correct the path, or export with fields recording"
        raise DataError(describe(f"source '{config.name}'", found, expected, fix))
    store = JsonRows(f"{folder}/cuts.*.jsonl*", config.name, cache_dir)
    tars = Tars(f"{folder}/recording.*.tar", config.name, cache_dir)
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
    """Makes conversations of cuts of one channel; what a question, answer or translation needs stands in `custom`.

    Args:
        columns: parser of the row that a cut becomes; with its `locate`, recordings are those of a Shar folder.
    """

    columns: ColumnsParser

    def __call__(self, item: Item) -> tuple[Conversation, ...]:
        cut = need_object(item.value, item.where)
        if cut.get("type") != "MonoCut" or not isinstance(cut.get("recording"), Mapping):
            found = f"a {cut.get('type')} {'with' if 'recording' in cut else 'without'} a recording"
            fix = "Export it as one recording (cuts.save_audios), or remove it"
            raise refusal(item.where, found, "a MonoCut with a recording is needed", fix)
        recording, said = cut["recording"], cut.get("supervisions") or []
        said = sorted(said, key=lambda one: float(one.get("start", 0.0)))
        custom: dict[str, Any] = {}
        for one in (*said, cut):
            custom |= one.get("custom") or {}
        row: dict[str, Any] = {
            "id": cut.get("id"),
            "audio": self._path(recording, cut, item.where),
            "start": cut.get("start"),
            "duration": cut.get("duration"),
            "lang": next((one["language"] for one in said if one.get("language")), None),
        }
        for column in _FROM_CUSTOM:
            row |= {name: custom[name] for name in USUAL_NAMES[column] if name in custom}
        if not any(row.get(name) for name in USUAL_NAMES["answer"]):
            _check_span(said, cut, item.where)
        row["text"] = " ".join(one["text"] for one in said if one.get("text")) or None
        return self.columns(item._replace(value=row))

    def _path(self, recording: Mapping[str, Any], cut: Mapping[str, Any], where: str) -> Any:
        fix = "Export the cuts anew with their audio (cuts.save_audios)"
        if recording.get("transforms"):
            found = f"the recording has transforms, {show(recording['transforms'])}"
            raise refusal(where, found, "recordings are read as they lie in their files", fix)
        if len(recording.get("channel_ids") or [0]) > 1:
            found = f"the recording has the channels {recording['channel_ids']}, the cut is of {cut.get('channel')}"
            raise refusal(where, found, "a recording has one channel", fix)
        if self.columns.locate is not None:
            return cut.get("id")
        sources = recording.get("sources") or [{}]
        if len(sources) != 1 or sources[0].get("type") not in ("file", "url"):
            raise refusal(where, f"the sources are {show(sources)}", "one of the type 'file' or 'url' is needed", fix)
        return sources[0].get("source")


def _check_span(said: list[Any], cut: Mapping[str, Any], where: str) -> None:
    """Refuse a cut that was made shorter than what its supervisions say."""
    for one in said:
        start_s, duration_s = float(one.get("start", 0.0)), float(one.get("duration", 0.0))
        length_s = float(cut.get("duration", 0.0))
        if start_s < -TOLERANCE_S or start_s + duration_s > length_s + TOLERANCE_S:
            found = (
                f"a supervision goes from {start_s:.2f} s to {start_s + duration_s:.2f} s of a cut of {length_s:.2f} s"
            )
            fix = "Cut along the supervisions (cuts.trim_to_supervisions)"
            raise refusal(where, found, "all that is said must be heard", fix)
