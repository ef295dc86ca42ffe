"""`vtb recipe check`: what a recipe builds and what it lacks."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.tiny import make_recipe
from voicetextblender.cli.main import app
from voicetextblender.train.recipe import dump_recipe, load_recipe, shipped_recipes
from voicetextblender.train.recipe_check import RecipeCheck, check_recipe, group_tensors, longest_clip_tokens


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
