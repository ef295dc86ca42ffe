"""`vtb recipe check`: what a recipe builds and what it lacks."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.tiny import make_recipe
from voicetextblender.cli.main import app
from voicetextblender.errors import RunError
from voicetextblender.train.recipe import dump_recipe, load_recipe, shipped_recipes
from voicetextblender.train.recipe_check import (
    RecipeCheck,
    check_recipe,
    group_tensors,
    longest_clip_tokens,
    refuse_missing,
)


@cache
def checked(name: str) -> RecipeCheck:
    """A shipped recipe, checked once for all tests."""
    return check_recipe(load_recipe(name), 8)


LARGE = [name for name in shipped_recipes() if not name.startswith("mini")]


@pytest.mark.parametrize("name", LARGE)
def test_every_shipped_recipe_of_a_large_model_can_be_built(name: str) -> None:
    check = checked(name)
    whole = check.parts[-1]
    assert whole.num_parameters == sum(part.num_parameters for part in check.parts[:-1])
    assert whole.num_trained == sum(part.num_trained for part in check.parts[:-1]) > 0
    shapes = group_tensors(check.skeleton)
    assert sum(group.times for group in shapes) == len(list(check.skeleton.model.parameters()))
    assert longest_clip_tokens(check) <= check.recipe.data.max_conversation_tokens
    missing = {need.what.split(" ")[0] for need in check.needs if not need.is_there}
    assert {"LLM", "speech", "data"} <= missing


def test_ablations_differ_in_what_they_are_named_for() -> None:
    def trained(name: str) -> dict[str, int]:
        return {part.name: part.num_trained for part in checked(name).parts}

    base = trained("voicetextblender-3b")
    assert trained("voicetextblender-3b-gated") == trained("voicetextblender-3b-speech-only") == base
    assert "lora" not in trained("voicetextblender-3b-frozen-llm")
    assert trained("voicetextblender-3b-linear")["adapter"] == 1024 * 2048 + 2048
    top = trained("whisper-llama-top-layers")["speech_encoder"]
    assert top == pytest.approx(trained("whisper-llama")["speech_encoder"] / 2, rel=0.02)


def test_the_page_of_the_papers_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("voicetextblender.cli.recipe_check.console.width", 160)
    result = CliRunner().invoke(app, ["recipe", "check", "voicetextblender-3b", "--gpus", "8", "--tensors"])
    for text in (
        "609,321,984",
        "609M [R]",
        "52,514,816",
        "39,223,296",
        "35,684,352 on fused matrices",
        "has 3,538,944",
        "701,060,096",
        "12.5 audio tokens a second",
        "takes 500 of at most 4,096",
        "Memory per GPU, 8 GPUs",
        "model.language_model.layers.*.mlp.up_proj.lora_A.default.weight",
        "your-data/mixed.jsonl",
        "Set data.sources.mixed.path",
        "8 of 8 missing",
    ):
        assert text in result.output, f"{text} is not in\n{result.output}"
    assert result.exit_code == 1


def test_a_recipe_that_has_everything(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(make_recipe(tmp_path)))
    result = CliRunner().invoke(app, ["recipe", "check", str(path)])
    assert "nothing is missing" in result.output
    assert result.exit_code == 0
    (tmp_path / "train.jsonl").unlink()
    assert CliRunner().invoke(app, ["recipe", "check", str(path)]).exit_code == 1


def test_a_training_without_its_files_tells_all_that_is_missing_and_touches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["train", "voicetextblender-3b", "data.sources.mixed.weight=0"])
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert lines[0] == (
        "error: data text: your-data/text.jsonl: not there; a training of voicetextblender-3b needs it. "
        "Set data.sources.text.path."
    )
    assert [line.split(":")[0] for line in lines[1:]] == [
        "data transcription",
        "data translation",
        "data answering",
        "LLM google/gemma-2b-it",
        "speech encoder your-models/canary-1b.nemo",
    ]
    assert lines[-2].endswith("It is fetched from the hub when the training starts; or set model.llm to its folder.")
    assert lines[-1].endswith("Download it, and set model.speech_encoder to its path.")
    result = CliRunner().invoke(app, ["train", "voicetextblender-3b", "--find-batch"])
    assert [line.split(" ")[-1] for line in result.stderr.splitlines()] == ["folder.", "path."]
    with pytest.raises(RunError, match=r"Make it with `vtb prepare mini`\."):
        refuse_missing(load_recipe("mini"))
    assert not list(tmp_path.iterdir())


def test_models_of_the_hub_alone_stop_nothing(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path)
    refuse_missing(recipe)
    refuse_missing(recipe.model_copy(update={"model": recipe.model.model_copy(update={"llm": "nobody/no-model"})}))
