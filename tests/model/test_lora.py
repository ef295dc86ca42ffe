"""LoRA: its kinds, where it acts, and that text alone keeps the base LLM while speech is learned."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.model.test_composite import CONVERSATIONS, decode_without_cache
from tests.tiny import make_recipe
from voicetextblender.data.loader import build_loader
from voicetextblender.data.measure import Geometry
from voicetextblender.errors import ModelError
from voicetextblender.model.build import Composite, build_composite
from voicetextblender.model.gating import find_gate
from voicetextblender.model.lora import lora_state, merge_lora
from voicetextblender.model.reply import SpeechReplier, TextReplier
from voicetextblender.model.trainable import trainable_parameters
from voicetextblender.model.weights import load_composite, save_composite
from voicetextblender.train.distributed import Ranks
from voicetextblender.train.optim import build_optimizer
from voicetextblender.train.parallel import parallelise
from voicetextblender.train.recipe import Recipe
from voicetextblender.train.step import batch_losses, run_step

ALONE = Ranks(0, 1, torch.device("cpu"))
IDS = torch.randint(7, 300, (3, 40), generator=torch.Generator().manual_seed(0))
TEXT = [item for item in CONVERSATIONS if not item.clips]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora")
    make_recipe(folder)
    return folder


def recipe_with(folder: Path, **lora: Any) -> Recipe:
    return make_recipe(folder, model={"lora": {"rank": 4, "alpha": 8, **lora}}, optim={"learning_rate": 0.05})


def train(recipe: Recipe, composite: Composite, steps: int = 3) -> None:
    """Some large steps, as a training would make them."""
    composite.model.train()
    parameters = trainable_parameters(composite.model)
    optimizer = build_optimizer(parameters, recipe.train.optim)
    geometry = Geometry(composite.num_audio_tokens, composite.geometry_fingerprint)
    loader = build_loader(recipe.data, composite.renderer, geometry, recipe.seed)
    parallel = parallelise(composite.model, recipe.train, ALONE)
    for step in range(steps):
        run_step(composite, optimizer, list(parameters.values()), loader.load(step), recipe.train, parallel, 0, step)
    composite.model.eval()


def trained(folder: Path, **lora: Any) -> tuple[Recipe, Composite]:
    recipe = recipe_with(folder, **lora)
    composite = build_composite(recipe.model, recipe.seed)
    train(recipe, composite)
    assert all(pair.any() for name, pair in lora_state(composite.model).items() if "lora_B" in name)
    return recipe, composite


@pytest.fixture(scope="module", params=[False, True], ids=["lora", "dora"])
def gated(request: pytest.FixtureRequest, folder: Path) -> tuple[Recipe, Composite]:
    return trained(folder, gating="with_audio", dora=request.param)


def base_logits(folder: Path) -> Tensor:
    with torch.inference_mode():
        return AutoModelForCausalLM.from_pretrained(folder / "llm").eval()(input_ids=IDS).logits


@pytest.mark.parametrize("kind", [{}, {"dora": True}, {"rslora": True}, {"targets": ["q_proj", "v_proj"]}], ids=str)
def test_at_its_start_no_kind_of_lora_changes_a_logit(kind: dict[str, Any], folder: Path) -> None:
    composite = build_composite(recipe_with(folder, **kind).model, 0)
    with torch.inference_mode():
        assert torch.equal(composite.model(input_ids=IDS).logits, base_logits(folder))


@pytest.mark.parametrize("kind", [{"dora": True}, {"rslora": True}], ids=str)
def test_the_kinds_merge_save_and_load(kind: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    _, composite = trained(folder, **kind)
    save_composite(composite, tmp_path / "model")
    loaded = load_composite(tmp_path / "model")
    with torch.inference_mode():
        logits = composite.model(input_ids=IDS).logits
        assert not torch.allclose(logits, base_logits(folder), atol=1e-2)
        assert torch.equal(loaded.model(input_ids=IDS).logits, logits)
        merge_lora(loaded.model)
        torch.testing.assert_close(loaded.model(input_ids=IDS).logits, logits, rtol=1e-3, atol=1e-3)


def test_rslora_scales_by_the_root_of_the_rank(folder: Path) -> None:
    plain, stable = (build_composite(recipe_with(folder, rslora=rslora).model, 0) for rslora in (False, True))
    scales = [
        next(module.scaling["default"] for module in composite.model.modules() if hasattr(module, "lora_A"))
        for composite in (plain, stable)
    ]
    assert scales == [8 / 4, 8 / 4**0.5]


def test_gated_text_alone_equals_the_base_llm_bit_for_bit_after_training(
    gated: tuple[Recipe, Composite], folder: Path
) -> None:
    _, composite = gated
    with torch.inference_mode():
        assert torch.equal(composite.model(input_ids=IDS).logits, base_logits(folder))
    plain = TextReplier(str(folder / "llm"), composite.config.audio_token)
    assert SpeechReplier(composite).reply(TEXT, 12) == plain.reply(TEXT, 12)


def test_gated_lora_acts_where_there_is_audio(gated: tuple[Recipe, Composite], folder: Path) -> None:
    _, composite = gated
    spoken = [item for item in CONVERSATIONS if item.clips]
    gate = find_gate(composite.model.model)
    assert gate is not None
    replies = SpeechReplier(composite).reply(spoken, 12)
    gate.gating = "off"
    without = SpeechReplier(composite).reply(spoken, 12)
    gate.gating = "with_audio"
    assert replies != without


def test_gated_replies_are_the_same_alone_in_a_batch_streamed_and_without_a_cache(
    gated: tuple[Recipe, Composite],
) -> None:
    """A batch holds rows with and without audio; the gate of each stays with it while it is decoded."""
    _, composite = gated
    replier = SpeechReplier(composite)
    together = replier.reply(CONVERSATIONS, 12)
    for conversation, reply in zip(CONVERSATIONS, together, strict=True):
        assert replier.reply([conversation], 12) == [reply]
        assert decode_without_cache(composite, conversation, 12) == reply

    def streams() -> list[Iterator[str]]:
        return [replier.stream(conversation, 12) for conversation in CONVERSATIONS]

    in_turn = zip_longest(*streams(), fillvalue="")  # a piece of each: no stream changes the gate of another
    assert ["".join(pieces) for pieces in zip(*in_turn, strict=True)] == ["".join(stream) for stream in streams()]


def test_gated_conversations_in_a_packed_row_have_the_losses_of_each_alone(gated: tuple[Recipe, Composite]) -> None:
    recipe, composite = gated
    geometry = Geometry(composite.num_audio_tokens, composite.geometry_fingerprint)
    packed, alone = (
        build_loader(recipe.data.model_copy(update={"pack": pack}), composite.renderer, geometry, 0).load(1)
        for pack in (True, False)
    )
    with torch.inference_mode():
        rows = [
            {
                tuple(batch.token_ids[batch.conversation_ids == number].tolist()): piece
                for batch in batches
                for number, piece in enumerate(
                    batch.split_by_conversation(batch_losses(composite, batch, recipe.train))
                )
            }
            for batches in (packed, alone)
        ]
    assert any(len(batch.token_ids) < len(batch.tasks) for batch in packed)
    assert any(batch.holds_audio[batch.conversation_ids >= 0].unique().numel() == 2 for batch in packed)
    assert rows[0].keys() == rows[1].keys()
    for ids, losses in rows[1].items():
        torch.testing.assert_close(rows[0][ids], losses, rtol=1e-4, atol=1e-4)


def test_gated_lora_learns_nothing_from_text(folder: Path) -> None:
    recipe = recipe_with(folder, gating="with_audio")
    composite = build_composite(recipe.model, recipe.seed)
    geometry = Geometry(composite.num_audio_tokens, composite.geometry_fingerprint)
    loader = build_loader(recipe.data, composite.renderer, geometry, recipe.seed)
    batches = [batch for step in range(2) for batch in loader.load(step)]
    batch = next(batch for batch in batches if batch.holds_audio.any())
    for name, parameter in composite.model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter)
    pieces = batch.split_by_conversation(batch_losses(composite, batch, recipe.train))
    owners = set(batch.conversation_ids[batch.audio_mask].tolist())
    assert 0 < len(owners) < len(pieces)
    pairs = [parameter for name, parameter in composite.model.named_parameters() if ".lora_" in name]
    for number, piece in enumerate(pieces):
        gradients = torch.autograd.grad(piece.sum(), pairs, retain_graph=True)
        assert any(gradient.any() for gradient in gradients) == (number in owners)


def test_switched_off_lora_changes_nothing_and_does_not_learn(folder: Path) -> None:
    recipe = recipe_with(folder, gating="off")
    composite = build_composite(recipe.model, recipe.seed)
    assert not [name for name in trainable_parameters(composite.model) if ".lora_" in name]
    for name, parameter in composite.model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter)
    with torch.inference_mode():
        assert torch.equal(composite.model(input_ids=IDS).logits, base_logits(folder))


def test_gated_lora_is_not_merged(gated: tuple[Recipe, Composite]) -> None:
    message = r"merging LoRA: model\.lora\.gating is with_audio; only LoRA that always acts .* Keep it as an adapter"
    with pytest.raises(ModelError, match=message):
        merge_lora(gated[1].model)


def test_targets_that_match_nothing_are_refused(folder: Path) -> None:
    message = (
        r"model\.lora\.targets: \['qkv_proj'\] names no linear layer of the LLM; its linear layers are \['down_proj'"
    )
    with pytest.raises(ModelError, match=message):
        build_composite(recipe_with(folder, targets=["q_proj", "qkv_proj"]).model, 0)
