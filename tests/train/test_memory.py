"""The estimate of memory against what autograd really keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GemmaConfig, LlamaConfig, PreTrainedConfig, WhisperConfig

from voicetextblender.model.adapters.conformer import ConformerAdapter
from voicetextblender.model.build import ModelConfig
from voicetextblender.model.encoders.families import build_tower
from voicetextblender.model.skeleton import build_skeleton
from voicetextblender.train.memory import (
    conformer_bytes_per_frame,
    estimate_memory,
    llm_bytes_per_token,
    transformer_bytes_per_frame,
)
from voicetextblender.train.recipe import load_recipe

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 64,
}


def kept_bytes(run: Callable[[], Tensor], module: nn.Module) -> int:
    """Bytes of the tensors that autograd keeps for the backward pass, without weights."""
    weights = {p.untyped_storage().data_ptr() for p in module.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t), torch.autocast("cpu", torch.bfloat16):
        output = run()
    assert output.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def slope(measure: Callable[[int], int], at: int) -> float:
    """Bytes for one more of something, near `at`; what does not grow with it falls out."""
    return (measure(at + 64) - measure(at)) / 64


@pytest.mark.parametrize("config_class", [LlamaConfig, GemmaConfig])
@pytest.mark.parametrize("rank", [4, 32])
def test_the_llm_keeps_what_the_formula_says(config_class: type[PreTrainedConfig], rank: int) -> None:
    from peft import LoraConfig, inject_adapter_in_model
    from transformers import AutoModel

    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

    def per_token(num_layers: int) -> float:
        model = AutoModel.from_config(config_class(num_hidden_layers=num_layers, **SIZES)).requires_grad_(False)
        inject_adapter_in_model(LoraConfig(r=rank, target_modules=targets), model)

        def measure(num_tokens: int) -> int:
            embeds = torch.randn(1, num_tokens, SIZES["hidden_size"], requires_grad=True)
            positions = torch.arange(num_tokens)[None]
            return kept_bytes(
                lambda: model(inputs_embeds=embeds, position_ids=positions, use_cache=False).last_hidden_state, model
            )

        return slope(measure, 128)

    one, two = (llm_bytes_per_token(config_class(num_hidden_layers=n, **SIZES), rank) for n in (1, 2))
    assert two == 2 * one
    assert per_token(3) - per_token(2) == pytest.approx(one, rel=0.05)


def test_a_conformer_layer_keeps_what_the_formula_says() -> None:
    size, heads, frames = 128, 4, 150

    def measure(num_layers: int, clips: int) -> int:
        adapter = ConformerAdapter(size, 8, {"num_heads": heads, "num_layers": num_layers, "dropout": 0.1}).train()
        encoded = torch.randn(clips, frames, size, requires_grad=True)
        mask = torch.ones(clips, frames, dtype=torch.bool)
        return kept_bytes(lambda: adapter.convolve(encoded, mask), adapter)

    per_clip = [measure(layers, 3) - measure(layers, 2) for layers in (2, 3)]
    per_frame = (per_clip[1] - per_clip[0]) / frames
    assert per_frame == pytest.approx(conformer_bytes_per_frame(size, 4 * size, heads, frames), rel=0.15)


def test_a_layer_of_whisper_keeps_what_the_formula_says() -> None:
    size, frames = 128, 100

    def measure(num_layers: int, clips: int) -> int:
        values = {"encoder_layers": num_layers, "d_model": size, "encoder_ffn_dim": 4 * size, "num_mel_bins": 8}
        tower = build_tower(WhisperConfig(encoder_attention_heads=4, **values)).train()
        features, mask = torch.randn(clips, 2 * frames, 8), torch.ones(clips, 2 * frames, dtype=torch.bool)
        return kept_bytes(lambda: tower(input_features=features, attention_mask=mask).last_hidden_state, tower)

    per_clip = [measure(layers, 3) - measure(layers, 2) for layers in (2, 3)]
    assert (per_clip[1] - per_clip[0]) / frames == pytest.approx(transformer_bytes_per_frame(size, 4 * size), rel=0.05)


def test_what_is_shared_falls_with_the_number_of_gpus() -> None:
    recipe = load_recipe("voicetextblender-3b")
    skeleton = build_skeleton(recipe.model)
    alone = estimate_memory(skeleton, recipe, 1)
    frozen_matrices = 18 * (2048 * (2048 + 256 + 256) + 2048 * 2048 + 3 * 2048 * 16_384)
    assert alone.weights == (4 + 2) * (3_207_232_512 - frozen_matrices) + 2 * frozen_matrices
    assert (alone.gradients, alone.optimizer) == (4 * 701_060_096, 8 * 701_060_096)
    shared = estimate_memory(skeleton, recipe, 64)
    assert (shared.gradients, shared.optimizer) == (alone.gradients / 64, alone.optimizer / 64)
    assert shared.llm_activations == alone.llm_activations
    embeddings, layer = 256_000 * 2048, 2048 * (4096 + 512 + 3 * 16_384) + 2 * 2048 + 39_223_296 // 18
    speech_outside_of_layers = 0.02 * embeddings
    gathered = (shared.weights - (4 * 3_207_232_512 - 2 * frozen_matrices) / 64) / 2  # in bf16
    assert 0 < gathered - (embeddings + 2 * layer) < speech_outside_of_layers


def test_layers_that_are_computed_again_keep_their_inputs() -> None:
    recipe = load_recipe("voicetextblender-3b")
    skeleton = build_skeleton(recipe.model)
    again = load_recipe("voicetextblender-3b", ["train.activation_checkpointing.llm=true"])
    whole, less = estimate_memory(skeleton, recipe, 1), estimate_memory(skeleton, again, 1)
    tokens = recipe.data.max_tokens_per_microbatch
    assert less.llm_activations == pytest.approx(whole.llm_activations / 18 + tokens * 18 * 4 * 2048)
    assert less.speech_activations == whole.speech_activations
    both = [f"train.activation_checkpointing.{part}=true" for part in ("speech_encoder", "adapter")]
    speech = estimate_memory(skeleton, load_recipe("voicetextblender-3b", both), 1).speech_activations
    assert speech < whole.speech_activations / 8


def test_frozen_speech_parts_keep_nothing() -> None:
    recipe = load_recipe("voicetextblender-3b")
    values = recipe.model.model_dump() | {"trainable": {"speech_encoder": False, "adapter": True, "llm": "frozen"}}
    model = ModelConfig.model_validate(values)
    frozen = recipe.model_copy(update={"model": model})
    ours = estimate_memory(build_skeleton(model), frozen, 1)
    whole = estimate_memory(build_skeleton(recipe.model), recipe, 1)
    assert ours.speech_activations == pytest.approx(whole.speech_activations * 2 / 26)
    assert ours.gradients == 4 * 52_514_816
