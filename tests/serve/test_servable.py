"""What stock vLLM needs and a model may lack: every check finds its fault, and a model without faults passes all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel

from tests.tiny import make_recipe
from tests.tiny_encoders import make_family
from voicetextblender.errors import ModelError
from voicetextblender.model.build import Composite, build_composite
from voicetextblender.serve.export import export
from voicetextblender.serve.servable import check_layers, check_servable


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("servable")


@pytest.fixture
def composite(folder: Path) -> Composite:
    return build_composite(make_recipe(folder).model, seed=0)


def test_a_model_as_training_makes_it_is_served(composite: Composite) -> None:
    assert check_servable(composite) == []


def change_text(**values: Any) -> Callable[[Composite], None]:
    def change(composite: Composite) -> None:
        for key, value in values.items():
            setattr(composite.model.config.text_config, key, value)

    return change


def change_audio(**values: Any) -> Callable[[Composite], None]:
    def change(composite: Composite) -> None:
        for key, value in values.items():
            setattr(composite.model.config.audio_config, key, value)

    return change


def cap_attention(composite: Composite) -> None:
    composite.model.model.language_model.config.attn_logit_softcapping = 50.0


def give_head_a_bias(composite: Composite) -> None:
    composite.model.lm_head = nn.Linear(64, 300)


def move_audio_token(composite: Composite) -> None:
    composite.model.config.audio_token_id = 300


def use_foreign_class(composite: Composite) -> None:
    class Foreign(type(composite.model.model.language_model)):  # type: ignore[misc]
        pass

    composite.model.model.language_model.__class__ = Foreign


FAULTS: dict[str, tuple[Callable[[Composite], None], str, str]] = {
    "head of 20": (
        change_text(head_dim=20),
        "lack",
        "model.llm: attention heads of size 20; a multiple of 8 up to 256",
    ),
    "head of 72": (change_text(head_dim=72), "note", "on a CPU. Serve it on a GPU."),
    "score cap": (
        cap_attention,
        "lack",
        "a cap of 50.0 on attention scores, which sdpa leaves out here and in training",
    ),
    "logit scale": (change_text(logits_scaling=8.0), "note", "Multiply the temperature of requests by 8."),
    "head bias": (give_head_a_bias, "lack", "model.llm: a bias in its head; a linear map without one."),
    "token outside": (move_audio_token, "lack", "'<|audio|>' has id 300, the LLM 300 embeddings"),
    "other vocabulary": (change_text(vocab_size=299), "lack", "300 embeddings, vocab_size 299; the same number"),
    "window": (change_text(layer_types=["full_attention", "sliding_attention"]), "lack", "and no sliding_window"),
    "chunks": (change_text(layer_types=["full_attention", "chunked_attention"]), "lack", "type ['chunked_attention']"),
    "axes": (change_text(rope_parameters={"mrope_section": [8, 12, 12]}), "lack", "positions of several axes (M-RoPE)"),
    "foreign code": (use_foreign_class, "lack", "Foreign comes from"),
    "short limit": (change_audio(max_position_embeddings=99), "note", "clips beyond 7 s have more embeddings than the"),
    "counts": (
        change_audio(subsampling_factor=4),
        "lack",
        "a clip of 9001 samples has 7 embeddings and 14 placeholders",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_found(name: str, composite: Composite) -> None:
    change, level, text = FAULTS[name]
    change(composite)
    found = [str(finding) for finding in check_servable(composite) if finding.level == level]
    assert any(text in finding for finding in found), found


@pytest.mark.parametrize(("family", "count"), [("qwen3_next", "3 of 4 layers"), ("falcon_mamba", "4 of 4 layers")])
def test_recurrent_layers_are_found(family: str, count: str, composite: Composite) -> None:
    config = AutoConfig.for_model(family, num_hidden_layers=4)
    with torch.device("meta"):
        composite.model.model.language_model = AutoModel.from_config(config)
    composite.model.config.text_config.num_hidden_layers = 4
    composite.model.config.text_config.layer_types = config.layer_types
    (finding,) = check_layers(composite)
    assert finding.level == "lack" and f"{count} (linear_attention)" in finding.found


@pytest.mark.parametrize(("family", "count"), [("wavlm", 1), ("hubert_large", 0)])
def test_encoders_that_reach_into_their_layers_are_found(family: str, count: int, tmp_path: Path) -> None:
    parts = {"speech_encoder": str(make_family(family, tmp_path / "speech_encoder"))}
    findings = check_servable(build_composite(make_recipe(tmp_path, model=parts).model, seed=0))
    assert len(findings) == count
    assert all(one.level == "lack" and one.found.startswith("WavLMAttention hands the weights") for one in findings)


def test_dora_is_served_merged_alone(folder: Path) -> None:
    composite = build_composite(make_recipe(folder, model={"lora": {"rank": 4, "dora": True}}).model, seed=0)
    (finding,) = check_servable(composite)
    assert str(finding).startswith("model.lora: DoRA; plain pairs of rank 512 at most") and finding.level == "note"


def test_lora_that_does_not_always_act_is_told_and_not_merged(folder: Path, tmp_path: Path) -> None:
    recipe = make_recipe(folder, model={"lora": {"rank": 4, "gating": "with_audio"}})
    composite = build_composite(recipe.model, seed=0)
    (finding,) = check_servable(composite)
    assert finding.level == "note" and finding.fix == "Export with --form lora, and name it in requests with audio"
    with pytest.raises(ModelError, match=r"merging LoRA: model.lora.gating is with_audio"):
        export(composite, tmp_path / "merged")
    export(composite, tmp_path / "out", "lora")
    assert (tmp_path / "out" / "lora" / "adapter_model.safetensors").is_file()
