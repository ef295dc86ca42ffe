"""Frozen matrices in bf16: less memory, and the same training to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.ranks import run_on_two_ranks
from tests.tiny import make_llm, make_recipe
from voicetextblender.data.loader import build_loader
from voicetextblender.data.measure import Geometry
from voicetextblender.model.build import build_composite
from voicetextblender.model.trainable import trainable_parameters
from voicetextblender.train.distributed import Ranks
from voicetextblender.train.optim import build_optimizer
from voicetextblender.train.parallel import open_composite, parallelise, prepare_model
from voicetextblender.train.recipe import Recipe
from voicetextblender.train.rounding import frozen_matrices
from voicetextblender.train.step import StepResult, run_step

ALONE = Ranks(0, 1, torch.device("cpu"))


def learn(recipe: Recipe, ranks: Ranks, is_rounded: bool, num_steps: int = 3) -> list[StepResult]:
    composite = open_composite(recipe.model, recipe.seed, recipe.train, ranks)
    geometry = Geometry(composite.num_audio_tokens, composite.geometry_fingerprint)
    with ranks.first_rank_first():
        loader = build_loader(recipe.data, composite.renderer, geometry, recipe.seed)
    if is_rounded:
        parallel = prepare_model(composite, recipe.train, ranks, packs=True)
        kinds = {layer.weight.dtype for layer in frozen_matrices(composite.model, composite.config)}
        assert kinds == {torch.bfloat16}
    else:
        parallel = parallelise(composite.model, recipe.train, ranks)
    parameters = trainable_parameters(composite.model.train())
    assert {parameter.dtype for parameter in parameters.values()} == {torch.float32}
    optimizer, tensors = build_optimizer(parameters, recipe.train.optim), list(parameters.values())
    return [
        run_step(
            composite,
            optimizer,
            tensors,
            loader.load(step, ranks.rank, ranks.num_ranks),
            recipe.train,
            parallel,
            recipe.seed,
            step,
        )
        for step in range(num_steps)
    ]


def learn_in_shards(ranks: Ranks, recipe: Recipe) -> None:
    assert learn(recipe, ranks, is_rounded=True) == learn(recipe, ranks, is_rounded=False)


@pytest.mark.parametrize("tied", [True, False])
def test_a_training_with_rounded_matrices_is_the_same_to_the_bit(tied: bool, tmp_path: Path) -> None:
    make_llm(tmp_path / "other", tie_word_embeddings=tied)
    model = {"llm": str(tmp_path / "other"), "lora": {"rank": 4, "dropout": 0.1}}
    recipe = make_recipe(tmp_path, model=model, precision="bf16", parallel="fsdp")
    assert learn(recipe, ALONE, is_rounded=True) == learn(recipe, ALONE, is_rounded=False)
    if not tied:
        run_on_two_ranks(learn_in_shards, recipe)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({}, 2 * 7 + 1),
        ({"lora": {"gating": "off"}}, 2 * 7 + 1),
        ({"trainable": {"llm": "frozen"}}, 2 * 7 + 1),
        ({"trainable": {"llm": "full"}}, 0),
        ({"trainable": {"llm": ("layers.1",)}}, 0),
        ({"lora": {"dora": True}}, 0),
    ],
)
def test_only_what_is_neither_changed_nor_saved_is_rounded(model: Any, expected: int, tmp_path: Path) -> None:
    make_llm(tmp_path / "other", tie_word_embeddings=False)
    recipe = make_recipe(tmp_path, model={"llm": str(tmp_path / "other"), **model})
    composite = build_composite(recipe.model, 0)
    assert len(frozen_matrices(composite.model, composite.config)) == expected
    saved = [module for name, module in composite.model.named_modules() if ".lora_" in name]
    assert not {id(layer) for layer in frozen_matrices(composite.model, composite.config)} & set(map(id, saved))
    assert all(isinstance(layer, nn.Linear) for layer in frozen_matrices(composite.model, composite.config))
