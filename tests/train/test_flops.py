"""The formula of MFU against torch's own count of a real step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import ParakeetEncoder, ParakeetEncoderConfig

from tests.tiny import make_recipe
from voicetextblender.batch import Batch
from voicetextblender.data.loader import build_loader
from voicetextblender.data.measure import Geometry
from voicetextblender.model.build import ModelConfig, build_composite
from voicetextblender.model.clips import embed_clips
from voicetextblender.model.packing import run_packed
from voicetextblender.model.skeleton import build_skeleton
from voicetextblender.train.flops import count_flops, find_peak, peak_flops
from voicetextblender.train.recipe import load_recipe


def count_multiplications(run: Callable[[], Tensor]) -> int:
    """What torch counts of products with weights, forward and backward; attention's products are other operators."""
    counter = FlopCounterMode(display=False)
    with counter:
        run().sum().backward()
    counts = counter.get_flop_counts()["Global"]
    wanted = ("mm", "addmm", "convolution", "convolution_backward")
    return sum(value for name, value in counts.items() if str(name).split(".")[-1] in wanted)


@pytest.mark.parametrize("llm", ["lora", "full", "frozen"])
def test_the_llm_behind_an_encoder_that_learns_costs_what_torch_counts(llm: str, tmp_path: Path) -> None:
    model = build_composite(make_recipe(tmp_path, model={"trainable": {"llm": llm}}).model, 0).model.train()
    embeds = torch.randn(2, 50, 64, requires_grad=True)
    positions = torch.arange(50).expand(2, -1)

    def run() -> Tensor:
        hidden = model.model(inputs_embeds=embeds, position_ids=positions, use_cache=False).last_hidden_state
        return model.compute_logits(hidden[:, -7:].flatten(0, 1))

    flops = count_flops(model)
    assert count_multiplications(run) == 100 * flops.per_token + 14 * flops.per_supervised


def test_the_adapter_costs_what_torch_counts(tmp_path: Path) -> None:
    """But for the positions, which are relative, so twice as many as frames, and the edges of convolutions."""
    model = build_composite(make_recipe(tmp_path).model, 0).model.train()
    encoded = torch.randn(1, 40, 32, requires_grad=True)
    encoder = 6 * sum(p.numel() for p in model.model.audio_tower.parameters() if p.ndim >= 2)
    adapter = count_flops(model).per_frame - encoder
    assert 1.0 < count_multiplications(lambda: model.model.adapter(encoded)) / (40 * adapter) < 1.15


def test_the_papers_model_by_hand() -> None:
    flops = count_flops(build_skeleton(load_recipe("voicetextblender-3b").model).model)
    body = 18 * (2048 * (2048 + 256 + 256) + 2048 * 2048 + 3 * 2048 * 16_384)
    assert flops.per_token == 4 * body + 6 * 39_223_296
    assert flops.per_supervised == 4 * 2048 * 256_000
    assert flops.per_frame == pytest.approx(6 * (609_321_984 + 52_514_816), rel=0.01)
    assert flops.per_token_pair == 3 * 4 * 18 * 2048
    assert flops.of([100], [40], 10) == pytest.approx(
        100 * flops.per_token
        + 40 * flops.per_frame
        + 10 * flops.per_supervised
        + 5050 * flops.per_token_pair
        + 1600 * flops.per_frame_pair
    )


def test_a_step_costs_what_torch_counts(tmp_path: Path) -> None:
    """But for what is left out: padding of rows, the Conformers' relative positions and first convolutions."""
    wide = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 2}
    small = {"subsampling_conv_channels": 8, "conv_kernel_size": 5}
    ParakeetEncoder(ParakeetEncoderConfig(**wide, **small)).save_pretrained(tmp_path / "wide")
    recipe = make_recipe(tmp_path, model={"speech_encoder": str(tmp_path / "wide")})
    composite = build_composite(recipe.model, 0)
    model = composite.model.train()
    geometry = Geometry(composite.num_audio_tokens, composite.geometry_fingerprint)
    batches = build_loader(recipe.data, composite.renderer, geometry, recipe.seed).load(0)

    def run(batch: Batch) -> Tensor:
        embeds = model.get_input_embeddings()(batch.token_ids)
        if batch.waveforms:
            clips = zip(batch.waveforms, batch.num_audio_tokens, strict=True)
            audio = [embed_clips(model.model, composite.front_end, [clip], [count]) for clip, count in clips]
            embeds = model.model.join(embeds, torch.cat(audio), batch.audio_mask)
        return model.compute_logits(run_packed(model.model, embeds, batch.position_ids)[batch.supervision_mask])

    flops = count_flops(model)._replace(per_token_pair=0, per_frame_pair=0)
    counted = sum(count_multiplications(partial(run, batch)) for batch in batches)
    ratio = counted / flops.of_batches(batches, composite.num_encoder_frames)
    assert 1.0 < ratio < 1.15


def test_frames_of_a_windowed_encoder_see_their_window_alone() -> None:
    flops = count_flops(build_skeleton(load_recipe("whisper-llama").model).model)
    assert flops.window == 1500
    long, whole, rest = (flops.of([], [length], 0) for length in (3100, 1500, 100))
    assert long == pytest.approx(2 * whole + rest)


def test_what_lies_before_all_that_learns_costs_its_forward_pass_alone() -> None:
    recipe = load_recipe("voicetextblender-3b")

    def flops(**trainable: Any) -> tuple[float, float]:
        values = recipe.model.model_dump() | {"trainable": trainable}
        counted = count_flops(build_skeleton(ModelConfig.model_validate(values)).model)
        return counted.per_frame, counted.per_token

    frozen = flops(speech_encoder=False, adapter=False, llm="frozen")
    assert flops(speech_encoder=True, adapter=True, llm="full")[0] == 3 * frozen[0]
    assert flops(speech_encoder=False, adapter=True, llm="frozen")[1] == 2 * frozen[1]
    upper = flops(speech_encoder=["layers.12-23"], adapter=True, llm="lora")[0]
    assert upper == pytest.approx(frozen[0] * (1 + 3) / 2, rel=0.1)


def test_peaks_are_found_by_the_names_of_gpus() -> None:
    assert find_peak("NVIDIA H200") == find_peak("NVIDIA H100 80GB HBM3") == 989e12
    assert find_peak("NVIDIA H100 PCIe") == 756e12 and find_peak("NVIDIA A100-SXM4-80GB") == 312e12
    assert find_peak("NVIDIA L40S") == 362e12 and find_peak("NVIDIA L40") == 181e12 and find_peak("NVIDIA L4") == 121e12
    assert find_peak("NVIDIA RTX A1000") is None and peak_flops(torch.device("cpu")) is None
