from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import ParakeetEncoder, ParakeetEncoderConfig

from voicetextblender.audio.lengths import (
    FASTCONFORMER_TOKENS,
    Stage,
    num_audio_frames,
    num_audio_tokens,
    num_encoder_frames,
    resampled_num_samples,
)


@pytest.mark.parametrize(
    ("num_samples", "frames", "tokens"),
    [(0, 0, 0), (159, 0, 0), (160, 1, 1), (1280, 8, 1), (1440, 9, 2), (16_000, 100, 13), (51_200, 320, 40)],
)
def test_known_lengths(num_samples: int, frames: int, tokens: int) -> None:
    assert num_audio_frames(num_samples) == frames
    assert num_audio_tokens(num_samples) == tokens


@pytest.mark.parametrize("subsampling_factor", [1, 2, 4, 8, 16])
def test_subsampling_is_a_ceiling_division(subsampling_factor: int) -> None:
    for frames in range(300):
        assert num_encoder_frames(frames, subsampling_factor) == -(-frames // subsampling_factor)


@given(st.lists(st.integers(0, 10**8), min_size=1))
def test_integers_numpy_and_torch_agree(lengths: list[int]) -> None:
    expected = [num_audio_tokens(length) for length in lengths]
    assert num_audio_tokens(np.array(lengths)).tolist() == expected
    assert num_audio_tokens(torch.tensor(lengths)).tolist() == expected


@pytest.mark.parametrize("subsampling_factor", [4, 8])
def test_as_many_frames_as_the_encoder_gives(subsampling_factor: int) -> None:
    config = ParakeetEncoderConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        num_mel_bins=16,
        subsampling_factor=subsampling_factor,
        subsampling_conv_channels=4,
    )
    encoder = ParakeetEncoder(config).eval()
    for frames in range(1, 40):
        mask = torch.ones(1, frames, dtype=torch.long)
        output = encoder(torch.zeros(1, frames, 16), attention_mask=mask, output_attention_mask=True)
        assert output.last_hidden_state.shape[1] == num_encoder_frames(frames, subsampling_factor)


@given(st.lists(st.integers(0, 10**7), min_size=1))
def test_a_chain_of_stages_counts_the_same(lengths: list[int]) -> None:
    expected = [num_audio_tokens(length) for length in lengths]
    assert [FASTCONFORMER_TOKENS(length) for length in lengths] == expected
    assert FASTCONFORMER_TOKENS(np.array(lengths)).tolist() == expected
    assert FASTCONFORMER_TOKENS(torch.tensor(lengths)).tolist() == expected


@given(st.integers(0, 60), st.integers(1, 9), st.integers(1, 5), st.integers(0, 3))
def test_a_stage_is_a_convolution(length: int, kernel: int, stride: int, padding: int) -> None:
    starts = range(-padding, length + padding - kernel + 1, stride)
    assert Stage(kernel, stride, padding)(length) == len(starts)


@given(st.integers(0, 10**7), st.sampled_from([8_000, 11_025, 22_050, 44_100, 48_000]))
def test_resampled_length_is_within_half_a_sample(num_samples: int, source_rate: int) -> None:
    resampled = resampled_num_samples(num_samples, source_rate, 16_000)
    assert abs(2 * resampled * source_rate - 2 * num_samples * 16_000) <= source_rate


def test_resampling_rounds_half_up() -> None:
    assert resampled_num_samples(1, 32_000, 16_000) == 1
    assert resampled_num_samples(3, 32_000, 16_000) == 2
