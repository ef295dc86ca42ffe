"""Compiled layers: the losses that uncompiled ones give, and no silence where compiling fails."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tests.tiny import make_recipe
from voicetextblender.data.loader import build_loader
from voicetextblender.data.measure import Geometry
from voicetextblender.errors import RunError
from voicetextblender.model.build import build_composite
from voicetextblender.model.trainable import trainable_parameters
from voicetextblender.train import compiling
from voicetextblender.train.step import batch_losses

GENERATED = pytest.param(
    "inductor",
    marks=[
        pytest.mark.slow,
        pytest.mark.timeout(900),
        pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="needs a C++ compiler"),
    ],
)
"""What a training uses."""

ADAPTER = {"num_heads": 2, "feed_forward_factor": 2, "conv_kernel_size": 5, "dropout": 0.0}
"""Layers of the size of the encoder's, which are then compiled once for both."""


@pytest.mark.parametrize("backend", ["eager", GENERATED])
def test_compiled_layers_learn_what_uncompiled_ones_learn(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced and run as it is; or with generated code, which takes minutes to make though it is not optimised here."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "generated"))
    monkeypatch.setenv("TORCHINDUCTOR_DEBUG_COMPILE", "1")
    recipe = make_recipe(tmp_path, model={"adapter": ADAPTER})
    composite = build_composite(recipe.model, seed=0)
    composite.model.train()
    geometry = Geometry(composite.num_audio_tokens, composite.geometry_fingerprint)
    batch = build_loader(recipe.data, composite.renderer, geometry, recipe.seed).load(0)[0]
    parameters = list(trainable_parameters(composite.model).values())

    def learn() -> list[torch.Tensor]:
        losses = batch_losses(composite, batch, recipe.train.model_copy(update={"spec_augment": None}))
        return [losses.detach(), *torch.autograd.grad(losses.sum(), parameters)]

    plain = learn()
    compiling.compile_layers(composite.model.model, backend)
    with compiling.no_silent_fallback():
        compiled = learn()
    torch.testing.assert_close(compiled[0], plain[0], rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(compiled, plain, strict=True):
        assert float((ours - theirs).norm()) <= 1e-3 * float(theirs.norm()) + 1e-6  # some are zero but for rounding


def test_the_layers_of_all_parts_are_compiled_and_keep_their_names(tmp_path: Path) -> None:
    composite = build_composite(make_recipe(tmp_path).model, seed=0)
    before = list(composite.model.state_dict())
    compiling.compile_layers(composite.model.model)
    assert list(composite.model.state_dict()) == before
    compiled = {
        name.rsplit(".", 2)[0] for name, module in composite.model.named_modules() if module._compiled_call_impl
    }
    assert compiled == {"model.language_model", "model.audio_tower", "model.adapter"}


def test_what_cannot_be_compiled_is_an_error() -> None:
    def fail(*arguments: object) -> None:
        raise ValueError("no such kernel")

    class Layer(torch.nn.Module):
        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return values * 2

    layer = Layer()
    layer.compile(backend=fail)
    with (
        pytest.raises(
            RunError, match=r"^train\.compile: torch\.compile failed with .*no such kernel.* Set it to false"
        ),
        compiling.no_silent_fallback(),
    ):
        layer(torch.zeros(1, 2))
