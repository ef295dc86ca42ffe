"""Rows of the report from any reader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.data.readers.test_webdataset import write_shard
from tests.data.rows import write_tone
from tests.evaluate.repliers import Oracle
from voicetextblender.chat.conversation import Conversation
from voicetextblender.data.loader import DataConfig
from voicetextblender.evaluate.config import EvaluateConfig, RowConfig
from voicetextblender.evaluate.suite import evaluate_column


class Echo:
    """Says what the clips are called."""

    def reply(self, conversations: list[Conversation], max_new_tokens: int) -> list[str]:
        return [" ".join(Path(clip.path or "").suffix for clip in one.clips) for one in conversations]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataConfig:
    """A shard of sixty samples and a table of as many rows, both of which hold out a third."""
    monkeypatch.chdir(tmp_path)
    lines, samples = ["path\tsentence\tclient_id"], []
    for number in range(60):
        write_tone(Path(f"clips/{number}.flac"), 0.2, pitch_hz=100 + number)
        lines.append(f"{number}.flac\tNumber {number}.\tp{number % 9}")
        content = Path(f"clips/{number}.flac").read_bytes()
        samples.append({"__key__": f"{number:02}", "flac": content, "txt": f"Number {number}."})
    Path("train.tsv").write_text("\n".join(lines))
    write_shard(Path("s.tar"), samples)
    held_out = {"held_out": {"fraction": 0.3}, "language": "en"}
    sources: list[dict[str, Any]] = [
        {"name": "shard", "kind": "webdataset", "path": "s.tar", **held_out},
        {"name": "table", "kind": "table", "path": "train.tsv", "audio_folder": "clips", **held_out},
    ]
    return DataConfig.model_validate({"sources": sources, "cache_dir": "cache"})


def test_held_out_sides_and_other_readers(data: DataConfig, tmp_path: Path) -> None:
    rows = {
        "shard": {"source": "shard", "metrics": ["wer"]},
        "table": {"source": "table", "metrics": ["wer"], "max_items": 5},
        "whole": {
            "reader": {"kind": "table", "path": "train.tsv", "audio_folder": "clips", "language": "en"},
            "metrics": ["wer"],
        },
    }
    config = EvaluateConfig.model_validate({"rows": rows})

    def evaluate(replier: Any) -> Any:
        return evaluate_column("joint", replier, config, None, tmp_path, model_fingerprint="x", data=data)

    result = evaluate(Echo())
    shard, table, whole = result.rows
    assert 10 < len(shard.predictions) < 30 and len(whole.predictions) == 60
    assert (len(table.predictions), table.counts.left_out > 0) == (5, True)
    assert {one.hypothesis for row in result.rows for one in row.predictions} == {".flac"}
    assert {one.reference for one in table.predictions} < {f"Number {number}." for number in range(60)}
    assert len({json.dumps(one.prompt[0]["content"][0]) for one in whole.predictions}) > 3  # worded in several ways
    assert len(list((tmp_path / "clips").iterdir())) == 60 + len(shard.predictions)
    assert evaluate(Oracle([])) == result  # kept replies are used again: nobody is asked


@pytest.mark.parametrize("places", [{}, {"manifest": "a", "source": "b"}, {"reader": {"path": "a"}, "source": "b"}])
def test_a_row_reads_one_place(places: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="it should have one of manifest, reader and source"):
        RowConfig.model_validate({"metrics": ["wer"], **places})
