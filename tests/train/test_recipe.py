"""Recipes: found, extended, overridden, checked, written back."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from voicetextblender.errors import RecipeError
from voicetextblender.model.adapters.config import ConformerConfig, LinearConfig, StackConfig
from voicetextblender.train.recipe import (
    Recipe,
    dump_recipe,
    load_recipe,
    read_tree,
    recipe_differences,
    recipe_fingerprint,
    shipped_recipes,
)
from voicetextblender.train.recipe_reference import describe_fields, insert_reference, walk_sections

ROOT = Path(__file__).parents[2]

SMALL = """\
name: small
model: {llm: llm, speech_encoder: encoder}
data:
  sources:
    - {name: a, path: a.jsonl}
    - {name: b, path: b.jsonl, weight: 2}
train: {steps: 10}
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_shipped_recipe_is_whole_and_comes_back_from_its_dump(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    assert recipe.description
    path = tmp_path / "resolved.yaml"
    path.write_text(dump_recipe(recipe))
    again = load_recipe(path)
    assert again == recipe
    assert dump_recipe(again) == dump_recipe(recipe)
    assert recipe_fingerprint(again) == recipe_fingerprint(recipe)


def test_the_baselines_differ_from_mini_in_what_they_are_named_for() -> None:
    mini = load_recipe("mini")
    named = {"name", "description", "evaluate.column"}
    for name, changed in (
        ("mini-speech-only", {"data.sources.0.weight", "data.sources.6.weight"}),  # the text and the chats
        ("mini-frozen-llm", {"model.trainable.llm"}),
    ):
        differences = {line.split(": ")[0] for line in recipe_differences(mini, load_recipe(name))}
        assert differences == named | changed


def test_defaults_are_written_out(small: Path) -> None:
    values = yaml.safe_load(dump_recipe(load_recipe(small)))
    assert values["model"]["lora"]["rank"] == 32
    assert values["evaluate"] is None
    assert "extends" not in values


def test_values_that_no_model_can_have_are_refused(small: Path) -> None:
    overrides = ["model.adapter.conv_kernel_size=4", "model.lora.rank=0", "train.optim.betas=[0.9, 1.0]"]
    with pytest.raises(RecipeError) as caught:
        load_recipe(small, overrides)
    for line in (
        "model.adapter.conv_kernel_size: value 4; it should be odd. Change the value.",
        "model.lora.rank: value 0; it should be greater than or equal to 1. Change the value.",
        "train.optim.betas.1: value 1.0; it should be less than 1. Change the value.",
    ):
        assert line in str(caught.value)


def test_a_section_of_another_kind_begins_anew(small: Path, tmp_path: Path) -> None:
    (tmp_path / "deep.yaml").write_text("extends: small.yaml\nmodel: {adapter: {num_layers: 3, num_heads: 4}}\n")
    (tmp_path / "linear.yaml").write_text("extends: deep.yaml\nmodel: {adapter: {kind: linear}}\n")
    assert load_recipe(tmp_path / "deep.yaml").model.adapter == ConformerConfig(num_layers=3, num_heads=4)
    assert load_recipe(tmp_path / "linear.yaml").model.adapter == LinearConfig()
    stacked = load_recipe(tmp_path / "deep.yaml", ["model.adapter.kind=stack", "model.adapter.stack_factor=4"])
    assert stacked.model.adapter == StackConfig(stack_factor=4)
    source = load_recipe(small, ["data.sources.b.kind=nemo"]).data.sources[1]
    assert (source.kind, source.path, source.weight) == ("nemo", "b.jsonl", 2.0)


def test_keys_of_another_kind_are_refused_by_their_place(small: Path) -> None:
    for overrides, message in (
        (
            ["model.adapter={kind: qformer, stack_factor: 2}"],
            "model.adapter.stack_factor: unknown key 'stack_factor'; allowed are kind, window, num_queries, "
            "num_layers, num_heads, feed_forward_factor, dropout. Rename or remove it.",
        ),
        (
            ["model.adapter={kind: quformer}"],
            "model.adapter.kind: value 'quformer'; it should be 'conformer', 'linear', 'stack', 'qformer'. Did you "
            "mean 'qformer'? Change the value.",
        ),
        (["model.trainable.llm=lorra"], "model.trainable.llm: value 'lorra'; it should be 'lora', 'full' or 'frozen'"),
        (
            ["model.warm_start=ctc", "model.adapter.kind=linear"],
            "model: its values do not fit together; it should have",
        ),
    ):
        with pytest.raises(RecipeError) as caught:
            load_recipe(small, overrides)
        assert message in str(caught.value)


def test_every_key_has_a_meaning() -> None:
    nameless = [
        f"{path}.{key}"
        for path, section in walk_sections(Recipe, "")
        for key in section.model_fields
        if key not in describe_fields(section)
    ]
    assert not nameless


def test_overrides_change_values_and_the_fingerprint(small: Path) -> None:
    recipe = load_recipe(small, ["train.steps=20", "model.lora.rank=8", "data.sources.b.weight=1e-1"])
    assert (recipe.train.steps, recipe.model.lora.rank, recipe.data.sources[1].weight) == (20, 8, 0.1)
    assert recipe_differences(load_recipe(small), recipe) == [
        "model.lora.rank: 32 -> 8",
        "data.sources.1.weight: 2.0 -> 0.1",
        "train.steps: 10 -> 20",
    ]
    assert recipe_fingerprint(recipe) != recipe_fingerprint(load_recipe(small))


def test_the_fingerprint_does_not_depend_on_how_a_recipe_is_written(small: Path, tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("extends: small.yaml\ntrain:\n  steps: 11\n")
    written, overridden = load_recipe(tmp_path / "other.yaml"), load_recipe(small, ["train.steps=11"])
    assert written == overridden
    assert recipe_fingerprint(written) == recipe_fingerprint(overridden)


def test_a_recipe_extends_a_shipped_one_or_a_file_beside_it(small: Path, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "top.yaml").write_text("extends: ../middle.yaml\nseed: 3\n")
    (tmp_path / "middle.yaml").write_text("extends: small.yaml\nname: middle\ndata: {sources: {a: {weight: 0}}}\n")
    recipe = load_recipe(tmp_path / "deep" / "top.yaml")
    assert (recipe.name, recipe.seed, recipe.train.steps) == ("middle", 3, 10)
    assert [source.weight for source in recipe.data.sources] == [0.0, 2.0]
    (tmp_path / "mine.yaml").write_text("extends: mini\nname: mine\n")
    assert load_recipe(tmp_path / "mine.yaml").model == load_recipe("mini").model


def test_a_circle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(tmp_path / "a.yaml")
    assert str(caught.value) == (
        f"{tmp_path}/a.yaml: extends itself (a.yaml -> b.yaml -> a.yaml); a chain with an end. Break the circle."
    )


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("minni")
    known = ", ".join(shipped_recipes())
    assert str(caught.value) == (
        f"recipe 'minni': no recipe of that name in the package; there are {known}. "
        "Did you mean 'mini'? For a file of your own write its path, ending in .yaml."
    )
    (tmp_path / "a.yaml").write_text("name: a\nextends: [mini]\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(tmp_path / "a.yaml")
    assert str(caught.value) == (
        f"{tmp_path}/a.yaml:2 extends: ['mini']; one name or path. Write it like `extends: mini`."
    )


def test_a_typing_error_is_told_with_file_line_and_a_suggestion(small: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: small.yaml\ntrain:\n  stpes: 3\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, ["model.lora.rnk=3"])
    rank, steps = str(caught.value).split("\n")
    assert steps.startswith(f"{path}:3 train.stpes: unknown key 'stpes'; allowed are steps, ")
    assert steps.endswith(" Did you mean 'steps'? Rename or remove it.")
    assert rank.startswith("command line 'model.lora.rnk=3' model.lora.rnk: unknown key 'rnk'; allowed are rank, ")


def test_an_override_of_an_unknown_section_is_told_with_the_command_line(small: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(small, ["trian.steps=3"])
    assert str(caught.value) == (
        "command line 'trian.steps=3' trian: unknown key 'trian'; allowed are name, description, seed, model, data, "
        "train, published, evaluate. Did you mean 'train'? Rename or remove it."
    )


def test_values_that_do_not_fit_together_are_refused(small: Path) -> None:
    with pytest.raises(RecipeError, match=r"data: its values do not fit together; .*max_conversation_tokens"):
        load_recipe(small, ["data.max_conversation_tokens=9000"])


def test_a_name_that_is_no_folder_is_refused(small: Path) -> None:
    for name in ("/root", "a b", "", "a//b", "../a"):
        with pytest.raises(RecipeError, match=r"command line 'name=.*' name: value .*; string should match pattern"):
            load_recipe(small, [f"name='{name}'"])


def test_a_recipe_is_frozen(small: Path) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_recipe(small).seed = 3  # type: ignore[misc]


def test_reading_changes_nothing_that_was_read_before(small: Path) -> None:
    before = read_tree(small).values
    read_tree(small, ["data.sources.a.weight=7", "train.steps=99"])
    assert read_tree(small).values == before


def test_the_reference_in_the_docs_is_that_of_the_code() -> None:
    page = (ROOT / "docs" / "recipes.md").read_text("utf-8")
    assert page == insert_reference(page), "a config has changed: run `make docs`"
    for path, section in walk_sections(Recipe, ""):
        assert f"## `{path}`" in page or not path
        for key in section.model_fields:
            assert f"| `{key}` |" in page
