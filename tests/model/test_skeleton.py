"""Shapes without weights: the counts that others publish, and those of a model that is really built."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import make_recipe
from voicetextblender.errors import ModelError
from voicetextblender.model.build import ModelConfig, build_composite
from voicetextblender.model.known_models import KNOWN_MODELS
from voicetextblender.model.lora import LoraSettings
from voicetextblender.model.skeleton import Skeleton, build_skeleton, num_lora_parameters
from voicetextblender.model.trainable import part_of


def skeleton_of(llm: str, encoder: str, **model: Any) -> Skeleton:
    return build_skeleton(ModelConfig.model_validate({"llm": llm, "speech_encoder": encoder, **model}))


def count(skeleton: Skeleton) -> Counter[str]:
    counts: Counter[str] = Counter()
    for name, parameter in skeleton.model.named_parameters():
        assert parameter.device.type == "meta"
        counts["lora" if ".lora_" in name else part_of(name)] += parameter.numel()
        counts["trained"] += parameter.numel() * parameter.requires_grad
    return counts


def test_the_papers_model_has_the_published_numbers_of_parameters() -> None:
    counts = count(skeleton_of("google/gemma-2b-it", "models/canary-1b.nemo"))
    assert counts == {
        "speech_encoder": 609_321_984,
        "adapter": 52_514_816,
        "llm": 2_506_172_416,
        "lora": 39_223_296,
        "trained": 701_060_096,
    }


def test_lora_on_separate_and_on_fused_matrices() -> None:
    """By hand, for Gemma-1 2B: a pair of rank 32 beside `i` inputs and `o` outputs has 32 (i + o) parameters."""
    skeleton = skeleton_of("google/gemma-2b-it", "canary-1b")
    q, k, v, o = 2048 + 2048, 2048 + 256, 2048 + 256, 2048 + 2048
    gate, up, down = 2048 + 16_384, 2048 + 16_384, 16_384 + 2048
    assert num_lora_parameters(skeleton) == 18 * 32 * (q + k + v + o + gate + up + down) == 39_223_296
    fused = (2048 + 2048 + 256 + 256) + o + (2048 + 2 * 16_384) + down
    assert num_lora_parameters(skeleton, fused=True) == 18 * 32 * fused == 35_684_352


@pytest.mark.parametrize(
    ("llm", "expected"),
    [
        ("Qwen/Qwen3-1.7B", 1_720_574_976),
        ("meta-llama/Llama-3.2-3B-Instruct", 3_212_749_824),
        ("meta-llama/Llama-3.1-8B-Instruct", 8_030_261_248),
    ],
)
def test_known_llms_have_their_published_numbers_of_parameters(llm: str, expected: int) -> None:
    assert count(skeleton_of(llm, "openai/whisper-large-v3", trainable={"llm": "frozen"}))["llm"] == expected


def test_known_encoders_have_their_published_numbers_of_parameters() -> None:
    """811M: Canary-Qwen-2.5B, whose encoder is that of Canary-1B-Flash; 637M: half of Whisper-large's 1.55B."""
    encoders = {"canary-1b-flash": 811, "openai/whisper-large-v3": 637, "openai/whisper-large-v3-turbo": 637}
    for name, millions in encoders.items():
        assert round(count(skeleton_of("gemma-2b-it", name))["speech_encoder"] / 1e6) == millions
    assert all(known.source for known in KNOWN_MODELS.values())


def test_audio_tokens_a_second() -> None:
    per_hour = {
        ("canary-1b", "conformer"): 12.5,
        ("openai/whisper-large-v3", "stack"): 6.25,
        ("openai/whisper-large-v3", "qformer"): 10.0,
        ("canary-1b", "qformer"): 2.5,
    }
    for (encoder, kind), rate in per_hour.items():
        skeleton = skeleton_of("gemma-2b-it", encoder, adapter={"kind": kind})
        assert skeleton.num_audio_tokens(16_000 * 3600) == rate * 3600


@pytest.mark.parametrize("kind", [{}, {"dora": True}, {"targets": ["q_proj", "v_proj"]}], ids=str)
@pytest.mark.parametrize("adapter", [{"num_heads": 2}, {"kind": "qformer", "num_heads": 2}], ids=str)
def test_a_skeleton_has_the_parameters_of_the_model(
    kind: dict[str, Any], adapter: dict[str, Any], tmp_path: Path
) -> None:
    lora = LoraSettings.model_validate({"rank": 4, "alpha": 8, **kind}).model_dump()
    model = {"lora": lora, "adapter": adapter, "trainable": {"speech_encoder": ["layers.1"]}}
    config = make_recipe(tmp_path, model=model).model
    skeleton, composite = build_skeleton(config), build_composite(config, 0)
    ours, theirs = (
        {name: (tuple(p.shape), p.requires_grad) for name, p in model.named_parameters()}
        for model in (skeleton.model, composite.model)
    )
    assert ours == theirs
    assert skeleton.num_audio_tokens == composite.num_audio_tokens
    assert skeleton.llm_shapes == skeleton.encoder_shapes == "this machine"


def test_a_model_that_nobody_knows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ModelError, match=r"nowhere/at all: its configuration cannot be read .* the package knows\. Check"
    ):
        skeleton_of("nowhere/at all", "canary-1b")
