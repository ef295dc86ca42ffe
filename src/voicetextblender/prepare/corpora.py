"""Recorded corpora as transcription conversations: a folder with `manifest.jsonl` in, one manifest per split out.

Each line of such a manifest has the keys id, audio (path from the folder), text, lang, speaker and split.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from voicetextblender.audio.lengths import HOP_LENGTH
from voicetextblender.audio.waveform import check_clip_length, count_clip_samples
from voicetextblender.chat.conversation import AudioPart, Conversation, conversation_to_row
from voicetextblender.data.readers.config import PromptsConfig
from voicetextblender.data.readers.spoken import SpokenRow, Wordings
from voicetextblender.errors import AudioError, DataError, describe, describe_many
from voicetextblender.files import derive_seed, write_atomically
from voicetextblender.units import samples_to_seconds

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")
NEEDED_KEYS = ("id", "audio", "text", "lang", "speaker", "split")


@dataclass(frozen=True)
class Recording:
    """One utterance of a corpus whose file has been found usable."""

    id: str
    path: Path
    num_samples: int
    """At 16 kHz."""
    text: str
    language: str
    speaker: str
    split: Split
    where: str
    """Its manifest line, as `folder/manifest.jsonl:12`."""

    @property
    def duration_s(self) -> float:
        return samples_to_seconds(self.num_samples)

    @property
    def clip(self) -> AudioPart:
        """The whole recording as a part of a turn."""
        return AudioPart(path=str(self.path), duration_s=self.duration_s, transcript=self.text)


@dataclass(frozen=True)
class Drop:
    """A manifest line that was left out."""

    where: str
    reason: str
    """One of a few kinds, for counting."""
    detail: str


@dataclass(frozen=True)
class PrepareSummary:
    """What was written and what was left out; also stored as `summary.json` beside the manifests."""

    rows: Mapping[str, int]
    """Conversations per split."""
    hours: Mapping[str, float]
    """Hours of audio per split, each clip counted as often as it is heard."""
    drops: tuple[Drop, ...]

    @property
    def drops_by_reason(self) -> dict[str, int]:
        """How many lines were left out for each reason."""
        return dict(Counter(drop.reason for drop in self.drops))


def prepare_corpus(
    folders: Path | Sequence[Path],
    out: Path,
    *,
    limit: int | None = None,
    max_clip_s: float = 40.0,
    seed: int = 0,
) -> PrepareSummary:
    """Write `out`/{train,dev,test}.jsonl of transcription conversations; a split without rows makes no file.

    The wording of each prompt, and which rows a `limit` keeps, depend on `seed` and the id of the row alone.

    Args:
        folders: one corpus or several; their rows follow one another.
        limit: at most so many rows of each split; all when None.
        max_clip_s: longer recordings are dropped, and counted.

    Raises:
        DataError: a manifest is missing or has malformed lines, or no usable row is left.
    """
    recordings: list[Recording] = []
    drops: list[Drop] = []
    for folder in [folders] if isinstance(folders, Path) else folders:
        found, lost = read_recordings(folder, max_clip_s)
        recordings += found
        drops += lost
    if limit is not None:
        recordings = _limit(recordings, limit, seed, drops)
    if not recordings:
        reasons = describe_many([f"  {drop.where}: {drop.detail}" for drop in drops])
        expected = f"at least one is needed. Left out:\n{reasons}"
        raise DataError(describe(str(out), "no usable recording is left", expected, "Mend the manifest or its files"))
    conversations: dict[Split, list[Conversation]] = {split: [] for split in SPLITS}
    wordings = Wordings(PromptsConfig())
    for recording in recordings:
        conversations[recording.split].append(transcription_conversation(recording, seed, wordings))
    return write_manifests(out, conversations, drops)


def transcription_conversation(recording: Recording, seed: int, wordings: Wordings) -> Conversation:
    """One recording in one of the wordings for its language, answered with its text."""
    row = SpokenRow(
        recording.id,
        recording.clip,
        recording.text,
        "transcription",
        recording.language,
        speaker=recording.speaker,
    )
    asked = wordings.conversations(row, recording.where)
    return asked[derive_seed("prompt", seed, recording.id) % len(asked)]


def read_recordings(folder: Path, max_clip_s: float = 40.0) -> tuple[list[Recording], list[Drop]]:
    """The usable recordings of a corpus in the order of its manifest, and the lines left out.

    Ids start with the folder's name. A file that is missing, broken, too short or too long, and a row without text
    are dropped; a malformed line is an error.

    Raises:
        DataError: the manifest is missing, or lines of it are no JSON, lack a key, or repeat an id.
    """
    manifest = folder.resolve() / "manifest.jsonl"
    if not manifest.is_file():
        fix = "Give the folder of a corpus"
        raise DataError(describe(str(manifest), "the file does not exist", "a corpus has a manifest.jsonl", fix))
    recordings: list[Recording] = []
    drops: list[Drop] = []
    for where, row in _read_rows(manifest):
        usable = _count_usable_samples(row, manifest.parent / row["audio"], max_clip_s, where)
        if isinstance(usable, Drop):
            drops.append(usable)
            continue
        recordings.append(
            Recording(
                id=f"{manifest.parent.name}/{row['id']}",
                path=manifest.parent / row["audio"],
                num_samples=usable,
                text=row["text"].strip(),
                language=row["lang"],
                speaker=row["speaker"],
                split=row["split"],
                where=where,
            )
        )
    return recordings, drops


def write_manifests(
    out: Path, conversations: Mapping[Split, Sequence[Conversation]], drops: Iterable[Drop]
) -> PrepareSummary:
    """Write a manifest per split that has rows, remove those of an earlier call that has none now, and sum up."""
    for split, rows in conversations.items():
        path = out / f"{split}.jsonl"
        if not rows:
            path.unlink(missing_ok=True)
            continue
        with write_atomically(path) as temporary, temporary.open("w", encoding="utf-8") as file:
            for conversation in rows:
                file.write(json.dumps(conversation_to_row(conversation), ensure_ascii=False) + "\n")
    summary = PrepareSummary(
        rows={split: len(rows) for split, rows in conversations.items()},
        hours={split: _hours(rows) for split, rows in conversations.items()},
        drops=tuple(drops),
    )
    content = {
        "rows": dict(summary.rows),
        "hours": dict(summary.hours),
        "drops_by_reason": summary.drops_by_reason,
        "drops": [vars(drop) for drop in summary.drops],
    }
    with write_atomically(out / "summary.json") as temporary:
        temporary.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return summary


def _hours(conversations: Sequence[Conversation]) -> float:
    return sum(clip.duration_s or 0.0 for conversation in conversations for clip in conversation.clips) / 3600.0


def _read_rows(manifest: Path) -> list[tuple[str, dict[str, Any]]]:
    """Checked rows with the name of their line."""
    rows: list[tuple[str, dict[str, Any]]] = []
    problems: list[str] = []
    seen: dict[str, str] = {}
    with manifest.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            where = f"{manifest}:{number}"
            if not line.strip():
                continue
            row, problem = _parse_row(line, where)
            if problem is None and row["id"] in seen:
                found = f"the id '{row['id']}' is that of {seen[row['id']]}"
                problem = describe(where, found, "an id is unique in its corpus", "Rename one")
            if problem is not None:
                problems.append(problem)
                continue
            seen[row["id"]] = where
            rows.append((where, row))
    if problems:
        raise DataError(describe_many(problems))
    return rows


def _parse_row(line: str, where: str) -> tuple[dict[str, Any], str | None]:
    """The row and what is wrong with it, if anything."""
    needed = ", ".join(f"'{key}'" for key in NEEDED_KEYS)
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        return {}, describe(where, f"the line is no JSON ({error})", "one object a line is expected", "Mend the line")
    if not isinstance(row, dict):
        return {}, describe(
            where, "the line is no JSON object", f"an object with {needed} is expected", "Mend the line"
        )
    for key in NEEDED_KEYS:
        if key not in row:
            return {}, describe(where, f"the row lacks '{key}'", f"it must have {needed}", f"Add '{key}'")
        if not isinstance(row[key], str):
            return {}, describe(where, f"'{key}' is {row[key]!r}", "a text is expected", "Write it as a string")
    if row["split"] not in SPLITS:
        allowed = "a split is 'train', 'dev' or 'test'"
        return {}, describe(where, f"'split' is '{row['split']}'", allowed, "Rename the split")
    return row, None


def _count_usable_samples(row: Mapping[str, str], audio: Path, max_clip_s: float, where: str) -> int | Drop:
    """Samples of the row's recording at 16 kHz, or why the row cannot be used."""
    if not row["text"].strip():
        return Drop(where, "no text", "the text is empty")
    reason = "audio unreadable" if audio.is_file() else "audio missing"
    try:
        num_samples = count_clip_samples(audio, where=where)
        reason = "audio too short" if num_samples < HOP_LENGTH else "audio too long"
        check_clip_length(num_samples, max_clip_s, where, subject=f"audio '{audio}'")
    except AudioError as error:
        return Drop(where, reason, str(error))
    return num_samples


def _limit(recordings: Sequence[Recording], limit: int, seed: int, drops: list[Drop]) -> list[Recording]:
    """At most `limit` of each split, drawn by key, in their old order; the others go to `drops`."""
    drawn = sorted(recordings, key=lambda recording: derive_seed("limit", seed, recording.id))
    taken: Counter[str] = Counter()
    kept: set[str] = set()
    for recording in drawn:
        if taken[recording.split] < limit:
            taken[recording.split] += 1
            kept.add(recording.id)
    for recording in recordings:
        if recording.id not in kept:
            drops.append(Drop(recording.where, "beyond the limit", f"the limit is {limit} rows of a split"))
    return [recording for recording in recordings if recording.id in kept]
