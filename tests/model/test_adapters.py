"""Every modality adapter under one protocol: lengths, padding, sizes, and the way from recipe to saved model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from tests.tiny import make_recipe
from voicetextblender.audio.lengths import TokenCount
from voicetextblender.errors import ModelError
from voicetextblender.model.adapters.base import ModalityAdapter, initialise_projection
from voicetextblender.model.adapters.choose import ADAPTERS, make_adapter
from voicetextblender.model.adapters.config import AdapterConfig, ConformerConfig
from voicetextblender.model.build import Composite, build_composite, build_processor
from voicetextblender.model.clips import embed_clips
from voicetextblender.model.skeleton import build_skeleton
from voicetextblender.model.weights import load_composite, save_composite

ADAPTER_CONFIG: TypeAdapter[Any] = TypeAdapter(AdapterConfig)
SMALL: list[dict[str, Any]] = [
    {"num_heads": 2},
    {"kind": "conformer", "num_heads": 4, "num_layers": 1, "conv_kernel_size": 3},
    {"kind": "linear"},
    {"kind": "stack", "stack_factor": 1, "width": 16},
    {"kind": "stack", "stack_factor": 5, "width": 24},
    {"kind": "qformer", "num_heads": 2, "window": 7, "num_queries": 2, "num_layers": 1},
    {"kind": "qformer", "num_heads": 4},
]
SIZE, HIDDEN = 32, 24


def make(values: dict[str, Any]) -> ModalityAdapter:
    torch.manual_seed(0)
    return make_adapter(SIZE, HIDDEN, ADAPTER_CONFIG.validate_python(values).model_dump()).eval()


@pytest.mark.parametrize("values", SMALL, ids=str)
def test_the_number_of_embeddings_is_that_of_the_integer_arithmetic(values: dict[str, Any]) -> None:
    adapter, count = make(values), TokenCount(ADAPTER_CONFIG.validate_python(values).stages)
    for num_frames in range(1, 60):
        expected = count(num_frames)
        encoded = torch.randn(1, num_frames, SIZE)
        assert adapter(encoded).shape == (1, expected, HIDDEN)
        padded = torch.arange(64)[None] < num_frames
        assert int(adapter.valid_embeddings(padded).sum()) == expected
        assert adapter.valid_embeddings(padded)[0, :expected].all()


@pytest.mark.parametrize("values", SMALL, ids=str)
def test_padding_and_what_stands_in_it_change_nothing(values: dict[str, Any]) -> None:
    adapter = make(values)
    generator = torch.Generator().manual_seed(1)
    lengths = [1, 2, 14, 15, 16, 31]
    clips = [torch.randn(length, SIZE, generator=generator) for length in lengths]
    padded = torch.full((len(clips), 37, SIZE), 1e3)
    for row, clip in enumerate(clips):
        padded[row, : len(clip)] = clip
    mask = torch.arange(37)[None] < torch.tensor(lengths)[:, None]
    with torch.inference_mode():
        together = adapter(padded, mask)
        valid = adapter.valid_embeddings(mask)
        assert together.isfinite().all()
        for row, clip in enumerate(clips):
            torch.testing.assert_close(together[row][valid[row]], adapter(clip[None])[0], rtol=1e-4, atol=1e-5)
            alone = adapter(clip[None], torch.ones(1, len(clip), dtype=torch.bool))
            torch.testing.assert_close(together[row][valid[row]], alone[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("values", SMALL, ids=str)
def test_every_weight_learns(values: dict[str, Any]) -> None:
    adapter = make(values)
    mask = torch.arange(33)[None] < torch.tensor([33, 20])[:, None]
    embeddings = adapter(torch.randn(2, 33, SIZE), mask)[adapter.valid_embeddings(mask)]
    embeddings.square().sum().backward()
    without = [name for name, weight in adapter.named_parameters() if weight.grad is None or not weight.grad.any()]
    # A bias added to every key shifts all scores of a query alike, and softmax does not see it.
    assert [name for name in without if not name.endswith("k_proj.bias")] == []
    gradients = [weight.grad for weight in adapter.parameters() if weight.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("values", SMALL, ids=str)
def test_embeddings_start_at_the_size_that_is_asked_for(values: dict[str, Any]) -> None:
    adapter = make(values)
    initialise_projection(adapter, embedding_rms=0.3)
    encoded = torch.nn.functional.layer_norm(torch.randn(4, 60, SIZE), (SIZE,))
    with torch.inference_mode():
        assert float(adapter(encoded).square().mean().sqrt()) == pytest.approx(0.3, rel=0.35)


def test_parameters_at_the_sizes_of_the_models_that_they_come_from() -> None:
    """Canary-1B or Whisper-large to Gemma-1 2B, Qwen3-1.7B, Llama-3.1-8B and Granite-3.3-8B; built without memory."""

    def count(encoder_size: int, hidden_size: int, **values: Any) -> int:
        with torch.device("meta"):
            config = ADAPTER_CONFIG.validate_python(values).model_dump()
            return sum(p.numel() for p in make_adapter(encoder_size, hidden_size, config).parameters())

    assert count(1024, 2048) == 52_514_816
    assert count(1024, 2048, kind="linear") == 1024 * 2048 + 2048
    # projector of Ultravox 0.5: two normalisations, two matrices; we add the bias of the last
    assert count(1280, 4096, kind="stack") == 10_240 + 10_240 * 4096 + 2048 + 2048 * 4096 + 4096
    layer = 8 * (1024**2 + 1024) + 2 * 4096 * 1024 + 4096 + 1024 + 3 * 2048
    assert count(1024, 4096, kind="qformer") == 3 * 1024 + 2048 + 2 * layer + 1024 * 4096 + 4096


def test_a_section_without_a_kind_is_a_conformer_and_strangers_are_refused() -> None:
    assert ADAPTER_CONFIG.validate_python({"num_heads": 4}) == ConformerConfig(num_heads=4)
    assert set(ADAPTERS) == {"conformer", "linear", "stack", "qformer"}
    for values in ({"kind": "linear", "num_heads": 2}, {"kind": "mlp"}, {"kind": "stack", "width": 5}):
        with pytest.raises(ValidationError):
            ADAPTER_CONFIG.validate_python(values)


@pytest.mark.parametrize("kind", ["conformer", "qformer"])
def test_heads_that_do_not_divide_the_encoders_width_are_refused(kind: str, folder: Path) -> None:
    message = r"model\.adapter\.num_heads: 5 heads; a divisor of the encoder's width, 32\. Choose one\."
    config = make_recipe(folder, model={"adapter": {"kind": kind, "num_heads": 5}}).model
    for build_it in (lambda: build_composite(config, 0), lambda: build_skeleton(config)):
        with pytest.raises(ModelError, match=message):
            build_it()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    make_recipe(folder)
    return folder


def build(folder: Path, values: dict[str, Any]) -> Composite:
    return build_composite(make_recipe(folder, model={"adapter": values}).model, seed=0)


@pytest.mark.parametrize("values", SMALL[1:], ids=str)
def test_in_the_composite_clips_take_as_many_tokens_as_promised(values: dict[str, Any], folder: Path) -> None:
    composite = build(folder, values)
    random = np.random.default_rng(0)
    lengths = [160, 161, 1279, 1280, 1281, 9_000, 16_000, 23_456, *random.integers(160, 60_000, 6).tolist()]
    clips = [torch.from_numpy(random.normal(0, 0.1, length).astype(np.float32)) for length in lengths]
    counts = [composite.num_audio_tokens(length) for length in lengths]
    with torch.inference_mode():
        together = embed_clips(composite.model.model, composite.front_end, clips, counts).split(counts)
        for clip, count, embedded in zip(clips, counts, together, strict=True):
            alone = embed_clips(composite.model.model, composite.front_end, [clip], [count])
            torch.testing.assert_close(embedded, alone, rtol=1e-4, atol=1e-5)
    processor = build_processor(composite)
    inputs = processor.feature_extractor([clip.numpy() for clip in clips])
    for index, count in enumerate(counts):
        assert processor.replace_audio_token(inputs, index) == composite.config.audio_token * count


def test_what_decides_lengths_is_in_the_fingerprint(folder: Path) -> None:
    prints = [build(folder, values).geometry_fingerprint for values in SMALL]
    assert prints[0] == prints[1] == prints[2]
    assert len(set(prints[2:])) == 5


@pytest.mark.parametrize("values", SMALL[2:6:3], ids=str)
def test_another_adapter_saves_and_loads(values: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    composite = build(folder, values)
    save_composite(composite, tmp_path / "model")
    loaded = load_composite(tmp_path / "model")
    assert loaded.config.adapter == composite.config.adapter
    assert type(loaded.model.model.adapter) is type(composite.model.model.adapter)
    state = loaded.model.state_dict()
    for name, value in composite.model.state_dict().items():
        assert torch.equal(value, state[name]), name
