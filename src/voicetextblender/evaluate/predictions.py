"""Replies on disk and in memory: what was asked, what was expected, what came, and how it scored."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from voicetextblender.errors import RunError, describe
from voicetextblender.evaluate.config import Metric
from voicetextblender.evaluate.score import score_item
from voicetextblender.files import fingerprint, write_atomically


@dataclass(frozen=True)
class Prediction:
    """One reply: to the `turn`-th question of a conversation.

    `prompt` is what the model was shown, as the messages of a manifest; its own earlier replies stand in it.
    """

    id: str
    turn: int
    prompt: tuple[dict[str, Any], ...]
    reference: str
    hypothesis: str

    @property
    def clips(self) -> list[dict[str, Any]]:
        """The audio parts of the prompt, in order."""
        parts = [part for message in self.prompt for part in message["content"] if isinstance(part, dict)]
        return [part for part in parts if part.get("type") == "audio"]


@dataclass(frozen=True)
class RowCounts:
    """What went into a row: nothing is lost unseen."""

    conversations: int
    replies: int
    clips: int
    audio_s: float
    left_out: int
    """Conversations beyond `max_items`."""
    empty_replies: int


@dataclass(frozen=True)
class RowResult:
    """The replies of one model to one row."""

    row: str
    metrics: tuple[Metric, ...]
    predictions: tuple[Prediction, ...]
    counts: RowCounts

    @property
    def spoken(self) -> bool:
        """Whether the row asks the model to hear."""
        return self.counts.clips > 0


@dataclass(frozen=True)
class ColumnResult:
    """The rows of one run of a column; several results of one column are its seeds, or further rows of it."""

    column: str
    rows: tuple[RowResult, ...]


def save_row(column: str, result: RowResult, out_dir: Path, *, key: str) -> None:
    """Write the replies as JSON Lines with the score of each, then the note that vouches for them."""
    path = _predictions_path(column, result.row, out_dir)
    with write_atomically(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for prediction in result.predictions:
            scores = {
                metric: round(score_item(metric, prediction.reference, prediction.hypothesis), 3)
                for metric in result.metrics
            }
            line = {
                "id": prediction.id,
                "row": result.row,
                "turn": prediction.turn,
                "prompt": list(prediction.prompt),
                "clips": [clip["path"] for clip in prediction.clips],
                "reference": prediction.reference,
                "hypothesis": prediction.hypothesis,
                "scores": scores,
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    note = {
        "key": key,
        "metrics": list(result.metrics),
        "counts": asdict(result.counts),
        "sha256": fingerprint(path),
    }
    with write_atomically(_note_path(path)) as temporary:
        temporary.write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")


def load_row(
    column: str, row: str, out_dir: Path, *, key: str | None = None, metrics: Sequence[Metric] | None = None
) -> RowResult | None:
    """The kept replies of a row, or None where there are none that are whole (and of `key`, if one is given).

    With other `metrics` than those kept, the same replies are scored anew.
    """
    path = _predictions_path(column, row, out_dir)
    if not path.is_file() or not _note_path(path).is_file():
        return None
    note = json.loads(_note_path(path).read_text("utf-8"))
    if note["sha256"] != fingerprint(path) or key not in (None, note["key"]):
        return None
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    predictions = tuple(
        Prediction(line["id"], line["turn"], tuple(line["prompt"]), line["reference"], line["hypothesis"])
        for line in lines
    )
    wanted = tuple(metrics or note["metrics"])
    result = RowResult(row, wanted, predictions, RowCounts(**note["counts"]))
    if wanted != tuple(note["metrics"]):
        save_row(column, result, out_dir, key=note["key"])
    return result


def load_column(column: str, out_dir: Path) -> ColumnResult:
    """All rows that `evaluate_column` left under `out_dir`, without a model.

    Raises:
        RunError: there are none, or one is not what was written.
    """
    folder = out_dir / "predictions" / column
    results = []
    for note in sorted(folder.glob("*.note.json")):
        result = load_row(column, note.name.removesuffix(".note.json"), out_dir)
        if result is None:
            found = "the replies are missing or were changed after they were written"
            expected = "their note holds another fingerprint"
            raise RunError(describe(str(note), found, expected, "Remove the note and evaluate again"))
        results.append(result)
    if not results:
        found = f"there are no replies of the column '{column}'"
        raise RunError(describe(str(folder), found, "an evaluated run is needed", "Run vtb evaluate on it first"))
    return ColumnResult(column, tuple(results))


def _predictions_path(column: str, row: str, out_dir: Path) -> Path:
    return out_dir / "predictions" / column / f"{row}.jsonl"


def _note_path(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".jsonl") + ".note.json")
