"""Names of modules in `model.trainable`: what they mean, and that exactly those learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.model.test_lora import train
from tests.tiny import make_recipe
from voicetextblender.errors import ModelError
from voicetextblender.model.build import build_composite
from voicetextblender.model.trainable import names_module, part_of, trainable_parameters
from voicetextblender.train.optim import build_optimizer
from voicetextblender.train.recipe import Recipe

ENCODER, ADAPTER, LLM = "model.audio_tower.", "model.adapter.", "model.language_model."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trainable")
    make_recipe(folder)
    return folder


def recipe_with(folder: Path, optim: dict[str, Any] | None = None, **trainable: Any) -> Recipe:
    return make_recipe(folder, model={"trainable": trainable}, optim=optim or {})


@pytest.mark.parametrize(
    ("pattern", "parameter", "expected"),
    [
        ("layers.12-23", "layers.12.conv.norm.weight", True),
        ("layers.12-23", "layers.23.conv.norm.weight", True),
        ("layers.12-23", "layers.11.conv.norm.weight", False),
        ("layers.1", "layers.12.conv.norm.weight", False),
        ("layers.1*", "layers.12.conv.norm.weight", True),
        ("layers.*.self_attn", "layers.3.self_attn.q_proj.weight", True),
        ("layers.*.self_attn", "layers.3.conv.norm.weight", False),
        ("subsampling", "subsampling.linear.bias", True),
        ("linear", "subsampling.linear.bias", False),
        ("layers.0.norm.weight.more", "layers.0.norm.weight", False),
        ("*", "projection.bias", True),
    ],
)
def test_a_pattern_names_modules_part_for_part(pattern: str, parameter: str, expected: bool) -> None:
    assert names_module(pattern, parameter) is expected


@pytest.mark.parametrize(
    ("trainable", "prefixes"),
    [
        ({"speech_encoder": ["layers.1-5"], "adapter": False, "llm": "frozen"}, [f"{ENCODER}layers.1."]),
        (
            {"speech_encoder": False, "adapter": ["projection", "layers.*.conv"], "llm": ["layers.0.mlp", "norm"]},
            [
                f"{ADAPTER}projection.",
                f"{ADAPTER}layers.0.conv.",
                f"{ADAPTER}layers.1.conv.",
                f"{LLM}layers.0.mlp.",
                f"{LLM}norm.",
            ],
        ),
        ({"speech_encoder": ["subsampling"], "adapter": True, "llm": ["*"]}, [f"{ENCODER}subsampling.", ADAPTER, LLM]),
    ],
    ids=["encoder", "adapter and llm", "all of the llm"],
)
def test_exactly_the_modules_that_are_named_change(
    trainable: dict[str, Any], prefixes: list[str], folder: Path
) -> None:
    recipe = recipe_with(folder, **trainable)
    composite = build_composite(recipe.model, recipe.seed)
    names = {name for name, _ in composite.model.named_parameters() if name.startswith(tuple(prefixes))}
    assert set(trainable_parameters(composite.model)) == names
    assert all(any(name.startswith(prefix) for name in names) for prefix in prefixes)
    before = {name: value.clone() for name, value in composite.model.named_parameters()}
    train(recipe, composite, steps=2)
    changed = {name for name, value in composite.model.named_parameters() if not torch.equal(value, before[name])}
    # A bias added to every key shifts all scores of a query alike, and softmax does not see it.
    assert changed <= names and {name for name in names - changed if not name.endswith("k_proj.bias")} == set()


def test_a_name_that_no_module_has_is_refused(folder: Path) -> None:
    recipe = recipe_with(folder, speech_encoder=["layers.2-9", "subsampling", "norm"], llm=["layer.0"])
    with pytest.raises(ModelError) as caught:
        build_composite(recipe.model, recipe.seed)
    assert str(caught.value) == (
        "model.trainable.speech_encoder: 'layers.2-9' names no module with weights; the part has layers, subsampling. "
        "Begin with one of these names.\n"
        "model.trainable.speech_encoder: 'norm' names no module with weights; the part has layers, subsampling. Begin "
        "with one of these names."
    )


def test_learning_rate_and_weight_decay_by_part(folder: Path) -> None:
    optim = {"part_scale": {"llm": 0.5}, "part_weight_decay": {"adapter": 0.25, "speech_encoder": 0.0}}
    recipe = recipe_with(folder, optim)
    parameters = trainable_parameters(build_composite(recipe.model, recipe.seed).model)
    names = {id(parameter): name for name, parameter in parameters.items()}
    seen = set()
    for group in build_optimizer(parameters, recipe.train.optim).param_groups:
        for parameter in group["params"]:
            part = part_of(names[id(parameter)])
            decay = {"adapter": 0.25, "speech_encoder": 0.0, "llm": recipe.train.optim.weight_decay}[part]
            assert group["weight_decay"] == (decay if parameter.ndim >= 2 else 0.0)
            assert group["scale"] == (0.5 if part == "llm" else 1.0)
            seen.add(part)
    assert seen == {"speech_encoder", "adapter", "llm"}
