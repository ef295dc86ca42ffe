"""One step that goes wrong: nothing is updated, and the message says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.tiny import make_recipe
from voicetextblender.data.loader import build_loader
from voicetextblender.data.measure import Geometry
from voicetextblender.errors import RunError
from voicetextblender.model.build import build_composite
from voicetextblender.model.trainable import trainable_parameters
from voicetextblender.train.distributed import Ranks
from voicetextblender.train.optim import build_optimizer
from voicetextblender.train.parallel import parallelise
from voicetextblender.train.step import run_step

LAST_PART = (
    r"; finite numbers\. The weights are those before this step\. Lower train\.optim\.learning_rate, or look at the "
    r"rows of this step with `vtb look`\."
)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("weight", r"^step 3: loss nan, gradient norm nan"),
        ("gradient", r"^step 3: loss \d+\.\d+, gradient norm (inf|nan)"),
    ],
)
def test_a_step_that_is_not_finite_changes_no_weight(tmp_path: Path, broken: str, message: str) -> None:
    recipe = make_recipe(tmp_path)
    composite = build_composite(recipe.model, recipe.seed)
    composite.model.train()
    parameters = trainable_parameters(composite.model)
    optimizer = build_optimizer(parameters, recipe.train.optim)
    geometry = Geometry(composite.num_audio_tokens, composite.geometry_fingerprint)
    parallel = parallelise(composite.model, recipe.train, Ranks(0, 1, torch.device("cpu")))
    loader = build_loader(recipe.data, composite.renderer, geometry, recipe.seed)

    def step(number: int) -> float:
        batches = loader.load(number)
        learned = list(parameters.values())
        return run_step(composite, optimizer, learned, batches, recipe.train, parallel, recipe.seed, number).loss

    first_loss = step(2)
    if broken == "weight":
        norm = composite.model.model.language_model.norm.weight
        assert not norm.requires_grad
        norm.data[0] = torch.nan
    else:
        parameters["model.adapter.projection.bias"].register_hook(lambda gradient: gradient * torch.inf)
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    moments = {name: optimizer.state[parameter]["exp_avg"].clone() for name, parameter in parameters.items()}
    with pytest.raises(RunError, match=message + LAST_PART):
        step(3)
    assert first_loss > 0
    for name, parameter in parameters.items():
        assert torch.equal(parameter, before[name]), name
        assert torch.equal(optimizer.state[parameter]["exp_avg"], moments[name]), name
