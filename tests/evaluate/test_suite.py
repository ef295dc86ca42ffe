from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.evaluate.repliers import Oracle, make_clip, write_manifest
from voicetextblender.errors import DataError, RecipeError, RunError
from voicetextblender.evaluate.config import EvaluateConfig, RowConfig
from voicetextblender.evaluate.predictions import load_column
from voicetextblender.evaluate.suite import evaluate_column


@pytest.fixture
def world(tmp_path: Path) -> tuple[EvaluateConfig, list[Path]]:
    """A text row, a row with clips and a row of three turns."""
    clip = make_clip(tmp_path, "tone.wav")
    text = write_manifest(tmp_path / "text.jsonl", [[(f"say {n}", f"{n}")] for n in range(7)])
    mixed = write_manifest(tmp_path / "mixed.jsonl", [[([{"type": "text", "text": "hm"}, clip], "tone")]] * 3, "m")
    turns = write_manifest(tmp_path / "turns.jsonl", [[("a", "1"), ("b", "2"), ("c", "3")], [("d", "4")]], "t")
    rows = {
        "text.touched": RowConfig(manifest=text, metrics=("exact_match",), max_items=5),
        "mixed": RowConfig(manifest=mixed, metrics=("wer", "cer")),
        "turns": RowConfig(manifest=turns, metrics=("exact_match",)),
    }
    return EvaluateConfig(rows=rows, batch_size=2), [text, mixed, turns]


def test_rows_columns_can_do(world: tuple[EvaluateConfig, list[Path]], tmp_path: Path) -> None:
    config, manifests = world
    rows = {}
    for column in ("base", "cascade", "joint"):
        result = evaluate_column(column, Oracle(manifests), config, None, tmp_path / "out", model_fingerprint="x")
        rows[column] = [row.row for row in result.rows]
    assert rows == {
        "base": ["text.touched", "turns"],
        "cascade": ["mixed"],
        "joint": ["text.touched", "mixed", "turns"],
    }


def test_own_replies_are_fed_back(world: tuple[EvaluateConfig, list[Path]], tmp_path: Path) -> None:
    config, manifests = world
    oracle = Oracle(manifests, {("t0", 0): "one"})
    result = evaluate_column("joint", oracle, config, ["turns"], tmp_path, model_fingerprint="x").rows[0]
    assert [(p.id, p.turn, p.reference, p.hypothesis) for p in result.predictions] == [
        ("t0", 0, "1", "one"),
        ("t0", 1, "2", "2"),
        ("t0", 2, "3", "3"),
        ("t1", 0, "4", "4"),
    ]
    assert [message["content"] for message in result.predictions[2].prompt] == ["a", "one", "b", "2", "c"]
    assert all(conversation.turns[-1].role == "user" for conversation in oracle.asked)
    assert oracle.batch_sizes == [2, 1, 1]


def test_counts_and_progress(world: tuple[EvaluateConfig, list[Path]], tmp_path: Path) -> None:
    config, manifests = world
    seen: list[tuple[str, int, int]] = []
    oracle = Oracle(manifests, {("i1", 0): " "})
    result = evaluate_column(
        "joint", oracle, config, None, tmp_path, lambda *now: seen.append(now), model_fingerprint="x"
    )
    text, mixed, turns = (row.counts for row in result.rows)
    assert (text.conversations, text.replies, text.left_out, text.empty_replies) == (5, 5, 2, 1)
    assert (mixed.clips, mixed.audio_s) == (3, 1.5)
    assert (turns.conversations, turns.replies) == (2, 4)
    assert seen[:3] == [("text.touched", 2, 5), ("text.touched", 4, 5), ("text.touched", 5, 5)]


def test_kept_replies_are_used_again_until_something_changes(
    world: tuple[EvaluateConfig, list[Path]], tmp_path: Path
) -> None:
    config, manifests = world
    first = evaluate_column("joint", Oracle(manifests), config, None, tmp_path, model_fingerprint="x")
    silent = Oracle([])
    assert evaluate_column("joint", silent, config, None, tmp_path, model_fingerprint="x") == first
    assert silent.asked == []
    assert load_column("joint", tmp_path).rows == tuple(sorted(first.rows, key=lambda row: row.row))

    other_metrics = config.model_copy(
        update={"rows": {"turns": config.rows["turns"].model_copy(update={"metrics": ("wer",)})}}
    )
    evaluate_column("joint", silent, other_metrics, None, tmp_path, model_fingerprint="x")
    line = json.loads((tmp_path / "predictions/joint/turns.jsonl").read_text().splitlines()[0])
    assert line["scores"] == {"wer": 0.0}

    for change in ("model", "clip", "manifest"):
        asked = Oracle(manifests)
        if change == "clip":
            make_clip(tmp_path, "tone.wav", seconds=0.7)
        if change == "manifest":
            manifests[1].write_text(manifests[1].read_text() + "\n")
        name = "y" if change == "model" else "x"
        evaluate_column("joint", asked, config, ["mixed"], tmp_path, model_fingerprint=name)
        assert len(asked.asked) == 3, change


def test_a_kept_row_that_was_cut_short_is_generated_anew(
    world: tuple[EvaluateConfig, list[Path]], tmp_path: Path
) -> None:
    config, manifests = world
    evaluate_column("joint", Oracle(manifests), config, ["turns"], tmp_path, model_fingerprint="x")
    path = tmp_path / "predictions/joint/turns.jsonl"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(
        RunError, match=r"turns.note.json: the replies are missing or were changed .* evaluate again\.$"
    ):
        load_column("joint", tmp_path)
    again = Oracle(manifests)
    evaluate_column("joint", again, config, ["turns"], tmp_path, model_fingerprint="x")
    assert len(again.asked) == 4


def test_prediction_lines(world: tuple[EvaluateConfig, list[Path]], tmp_path: Path) -> None:
    config, manifests = world
    evaluate_column("joint", Oracle(manifests, {("m1", 0): "bone"}), config, ["mixed"], tmp_path, model_fingerprint="x")
    lines = [json.loads(line) for line in (tmp_path / "predictions/joint/mixed.jsonl").read_text().splitlines()]
    path = str(tmp_path / "tone.wav")
    assert lines[1] == {
        "id": "m1",
        "row": "mixed",
        "turn": 0,
        "prompt": [
            {
                "role": "user",
                "content": [{"type": "text", "text": "hm"}, {"type": "audio", "path": path, "transcript": "a tone"}],
            }
        ],
        "clips": [path],
        "reference": "tone",
        "hypothesis": "bone",
        "scores": {"wer": 100.0, "cer": 25.0},
    }


def test_unknown_row(world: tuple[EvaluateConfig, list[Path]], tmp_path: Path) -> None:
    config, manifests = world
    with pytest.raises(
        RecipeError, match=r"^evaluate.rows: there is no row 'mixd'; the recipe has text.touched, mixed, "
    ):
        evaluate_column("joint", Oracle(manifests), config, ["mixd"], tmp_path, model_fingerprint="x")


def test_bad_manifest_names_every_offender(tmp_path: Path) -> None:
    path = write_manifest(tmp_path / "bad.jsonl", [[("a", "1")], [("b", "2")]])
    question = '{"id": "q", "messages": [{"role": "user", "content": "x"}]}'
    path.write_text(path.read_text() + path.read_text().splitlines()[0] + "\n" + question + "\n{\n")
    config = EvaluateConfig(rows={"r": RowConfig(manifest=path, metrics=("wer",))})
    with pytest.raises(DataError) as caught:
        evaluate_column("joint", Oracle([]), config, None, tmp_path, model_fingerprint="x")
    first, second, third = str(caught.value).splitlines()
    assert first == f"{path}:3: the id 'i0' was used before; ids are unique within a manifest. Rename it."
    assert second.startswith(f"{path}:4: no assistant turn follows a user turn; there must be a reply")
    assert third.startswith(f"{path}:5: no JSON at column")


def test_missing_clip_and_empty_manifest(tmp_path: Path) -> None:
    part = {"type": "audio", "path": "gone.wav", "duration": 1.0}
    path = write_manifest(tmp_path / "r.jsonl", [[([part], "1")]])
    config = EvaluateConfig(rows={"r": RowConfig(manifest=path, metrics=("wer",))})
    with pytest.raises(DataError, match=r"^row r: audio '.*gone.wav' does not exist; an audio file is needed. Correct"):
        evaluate_column("joint", Oracle([]), config, None, tmp_path, model_fingerprint="x")
    path.write_text("\n")
    with pytest.raises(DataError, match=r"^row 'r': '.*r.jsonl' holds no conversation; at least one is needed"):
        evaluate_column("joint", Oracle([]), config, None, tmp_path, model_fingerprint="x")


def test_config_is_strict(tmp_path: Path) -> None:
    for bad in ({"metrics": []}, {"metrics": ["werr"]}, {"metrics": ["wer"], "max_items": 0}):
        with pytest.raises(ValueError):
            RowConfig.model_validate({"manifest": "x", **bad})
    with pytest.raises(ValueError):
        EvaluateConfig.model_validate({"rows": {"../x": {"manifest": "x", "metrics": ["wer"]}}})
