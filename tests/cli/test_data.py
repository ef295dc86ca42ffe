"""`vtb data`: what is printed, what is written, and the exit status."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.tiny import make_recipe
from voicetextblender.cli.main import app
from voicetextblender.train.recipe import dump_recipe


def vtb(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe that trains on one manifest and evaluates on the beginning of the same."""
    folder = tmp_path_factory.mktemp("data")
    recipe = make_recipe(folder)
    lines = (folder / "train.jsonl").read_text().splitlines(keepends=True)
    (folder / "eval.jsonl").write_text("".join(lines[:3]))
    text = dump_recipe(recipe).replace("evaluate: null\n", "")
    rows = {"mixed": {"manifest": str(folder / "eval.jsonl"), "metrics": ["wer"]}}
    (folder / "recipe.yaml").write_text(f"{text}evaluate: {json.dumps({'rows': rows})}\n")
    return folder


@pytest.fixture
def bad(world: Path) -> Path:
    """A manifest whose second and third lines are no conversations."""
    path = world / "bad.jsonl"
    line = (world / "train.jsonl").read_text().splitlines()[1]
    path.write_text(f"{line}\n[]\n{{\n")
    return path


def test_check_of_a_sound_recipe(world: Path) -> None:
    result = vtb("data", "check", world / "recipe.yaml", "--decode", "--workers", "1")
    assert result.exit_code == 0
    assert result.stdout == "\n15 rows, 21 clips decoded: no problem\n"


def test_check_counts_rows_beyond_a_limit_without_a_fault(world: Path) -> None:
    result = vtb("data", "check", world / "recipe.yaml", "--workers", "1", "data.max_clip_s=0.5")
    assert result.exit_code == 0
    assert "a clip longer than max_clip_s" in result.stdout
    assert " beyond a limit (training leaves them out)" in result.stdout


def test_check_of_a_bad_manifest(world: Path, bad: Path) -> None:
    result = vtb("data", "check", bad, "--workers", "1", "--out", world / "problems.jsonl")
    assert result.exit_code == 1
    assert f"  {bad}:2: found []; a conversation is an object with the keys" in result.stdout
    assert f"3 rows: 2 problems\nall of them: {world}/problems.jsonl\n" in result.stdout
    written = [json.loads(line) for line in (world / "problems.jsonl").read_text().splitlines()]
    assert [(one["line"], one["reason"]) for one in written] == [
        (2, "no usable conversation"),
        (3, "no usable conversation"),
    ]


def test_check_of_a_manifest_by_a_recipe(world: Path, bad: Path) -> None:
    result = vtb("data", "check", world / "recipe.yaml", bad, "--workers", "1", "data.max_conversation_tokens=5")
    assert result.exit_code == 1
    assert "3 rows: 2 problems, 1 beyond a limit" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mini", "mini-digits"], "vtb data check: 2 recipes; one recipe, or manifests, or one recipe and manifests."),
        (["task=text"], "vtb data check: neither a recipe nor a manifest;"),
        (["a.jsonl", "tsk=text"], "command line 'tsk=text' tsk: unknown key 'tsk'; allowed are"),
    ],
)
def test_check_says_what_it_cannot_do(arguments: list[str], message: str) -> None:
    result = vtb("data", "check", *arguments)
    assert result.exit_code == 2
    assert f"error: {message}" in result.stderr


def test_check_of_a_manifest_that_is_not_there(tmp_path: Path) -> None:
    result = vtb("data", "check", tmp_path / "none.jsonl")
    assert result.exit_code == 1
    assert "a source that cannot be opened" in result.stdout


def test_check_of_another_kind_of_source(world: Path) -> None:
    rows = [{"audio_filepath": f"clips/{name}", "duration": 0.1, "text": "eight"} for name in ("1_0.flac", "none.flac")]
    (world / "nemo.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = vtb("data", "check", world / "nemo.json", "--decode", "--workers", "1", "kind=nemo")
    assert result.exit_code == 1
    assert "2 rows, 1 clips decoded: 1 problem" in result.stdout
    assert f"{world}/nemo.json:2 turn 1: audio '{world}/clips/none.flac' does not exist" in result.stdout


def test_stats_prints_sources_kinds_and_languages(world: Path) -> None:
    out = world / "stats.json"
    result = vtb("data", "stats", world / "recipe.yaml", "--workers", "1", "--out", out, "data.max_clip_s=0.6")
    assert result.exit_code == 0
    for title in ("source", "kind", "language", "blend", "dropped from"):
        assert any(line.startswith(title) for line in result.stdout.splitlines())
    figures = json.loads(out.read_text())
    (source,) = figures["sources"]
    assert source["num_rows"] + source["drops"]["a clip longer than max_clip_s"] == 12
    assert [source["share"], source["supervised_share"]] == pytest.approx([1.0, 1.0])
    assert source["epochs"] == 6 * 8 / source["num_rows"]
    assert {kind["name"] for kind in figures["kinds"]} == {"text", "mixed"}
    assert sum(kind["num_rows"] for kind in figures["kinds"]) == source["num_rows"]
    assert [language["name"] for language in figures["languages"]] == ["en"]


def test_stats_counts_bad_rows_where_training_would_stop(world: Path, bad: Path) -> None:
    result = vtb("data", "stats", world / "recipe.yaml", "--workers", "1", f"data.sources.all.path={bad}")
    assert result.exit_code == 0
    assert "no usable conversation" in result.stdout


def test_preview_shows_the_run_and_writes_a_page(world: Path) -> None:
    out = world / "preview"
    result = vtb(
        "data", "preview", world / "recipe.yaml", "--workers", "1", "--out", out, "--step", "4", "--ranks", "2"
    )
    assert result.exit_code == 0
    shown = result.stdout
    assert "plan, 4 sampled steps" in shown
    assert "busiest of 2 ranks above their mean" in shown
    assert "epochs by step 4" in shown
    assert re.search(r"^mixed +3 +3 +0 +2$", shown, re.MULTILINE), shown  # held out: two of its three rows hold clips
    assert "user: Say it again, please.\nassistant: " in shown
    assert f"page: {out}/preview.html" in shown
    page = (out / "preview.html").read_text()
    assert page.count("<svg") == 3
    assert page.count('src="data:audio/mpeg;base64,') >= 3
    assert "<script" not in page and "http" not in re.sub(r"<meta http-equiv", "", page)
