from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import ParakeetFeatureExtractor

from voicetextblender.audio.features import LogMel, LogMelConfig


def make_batch(lengths: list[int], padding: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise clips [clips, samples] of the given lengths; a clip's samples depend on its place in `lengths`."""
    waveforms = torch.full((len(lengths), max(lengths)), padding)
    for row, length in enumerate(lengths):
        waveforms[row, :length] = 0.1 * torch.randn(length, generator=torch.Generator().manual_seed(row))
    return waveforms, torch.tensor(lengths)


@pytest.mark.parametrize("num_mels", [80, 128])
def test_equal_to_the_library(num_mels: int) -> None:
    lengths = [16_000, 12_345, 480]
    waveforms, num_samples = make_batch(lengths)
    clips = [waveforms[row, :length].numpy() for row, length in enumerate(lengths)]
    reference = ParakeetFeatureExtractor(feature_size=num_mels)(clips, sampling_rate=16_000, return_tensors="pt")
    features, num_frames = LogMel(LogMelConfig(num_mels=num_mels))(waveforms, num_samples)
    assert num_frames.tolist() == [100, 77, 3] == reference.attention_mask.sum(1).tolist()
    torch.testing.assert_close(features, reference.input_features[:, :100], atol=5e-5, rtol=0.0)


@given(st.lists(st.integers(160, 8_000), min_size=1, max_size=4), st.sampled_from([0.0, 1.0, float("nan")]))
@settings(deadline=None, max_examples=30)
def test_a_clip_alone_and_in_a_padded_batch_agree(lengths: list[int], padding: float) -> None:
    log_mel = LogMel()
    waveforms, num_samples = make_batch(lengths, padding)
    features, num_frames = log_mel(waveforms, num_samples)
    assert features.shape == (len(lengths), max(lengths) // 160, 80)
    for row, length in enumerate(lengths):
        alone, _ = log_mel(waveforms[row : row + 1, :length], num_samples[row : row + 1])
        torch.testing.assert_close(features[row, : length // 160], alone[0], atol=1e-4, rtol=0.0)
        assert not features[row, length // 160 :].any()
        assert num_frames[row] == length // 160


def test_each_band_is_normalised_over_the_clip() -> None:
    features, _ = LogMel()(*make_batch([16_000]))
    torch.testing.assert_close(features.mean(1), torch.zeros(1, 80), atol=1e-4, rtol=0.0)
    torch.testing.assert_close(features.std(1), torch.ones(1, 80), atol=1e-3, rtol=0.0)


@pytest.mark.parametrize("num_samples", [160, 319])
def test_one_frame_is_finite(num_samples: int) -> None:
    features, num_frames = LogMel()(*make_batch([num_samples]))
    assert num_frames.tolist() == [1]
    assert features.shape == (1, 1, 80)
    assert features.isfinite().all()


def test_silence_is_finite() -> None:
    features, _ = LogMel()(torch.zeros(1, 8_000), torch.tensor([8_000]))
    assert features.isfinite().all()


def test_nothing_to_load_and_nothing_to_cast() -> None:
    log_mel = LogMel()
    assert not log_mel.state_dict() and not list(log_mel.buffers())
    features, _ = log_mel.to(torch.bfloat16)(*make_batch([1_600]))
    assert features.dtype == torch.float32


def test_same_under_autocast() -> None:
    batch = make_batch([4_000])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside, _ = LogMel()(*batch)
    outside, _ = LogMel()(*batch)
    assert torch.equal(inside, outside)


def test_a_tone_peaks_in_its_band() -> None:
    seconds = np.arange(16_000) / 16_000
    power = LogMel(LogMelConfig(preemphasis=0.0))._log_mel(
        torch.from_numpy(np.sin(2 * np.pi * 1_000 * seconds)).float()[None], torch.tensor([16_000])
    )
    # 1 kHz is mel 15 and 8 kHz mel 45.25: of 80 bands the one whose centre is nearest to 1 kHz has the index 26.
    assert power[0, 50].argmax() == round(15.0 / 45.245 * 81) - 1


def test_all_bands_of_a_clip_together_keep_the_shape_of_its_spectrum() -> None:
    waveforms, num_samples = torch.randn(2, 8000), torch.tensor([8000, 4000])
    features, num_frames = LogMel(LogMelConfig(normalise="clip"))(waveforms, num_samples)
    for clip, length in zip(features, num_frames.tolist(), strict=True):
        assert abs(float(clip[:length].mean())) < 1e-5 and abs(float(clip[:length].std()) - 1) < 1e-3
        assert bool((clip[length:] == 0).all())
    alone, _ = LogMel(LogMelConfig(normalise="clip"))(waveforms[1:, :4000], num_samples[1:])
    assert torch.allclose(features[1, : alone.shape[1]], alone[0], atol=1e-5)
    spectrum = LogMel()._log_mel(waveforms, num_samples)[0, : int(num_frames[0])].mean(0)
    assert float(torch.corrcoef(torch.stack([features[0, : int(num_frames[0])].mean(0), spectrum]))[0, 1]) > 0.999


def test_bands_above_the_limit_are_zero_and_change_nothing_below_it() -> None:
    config = LogMelConfig(normalise="clip", band_limit_hz=4000.0)
    assert config.num_bands_kept == 61
    low = torch.randn(8000, generator=torch.Generator().manual_seed(0))
    high = torch.sin(2 * torch.pi * 7000 * torch.arange(8000) / 16_000)
    features, _ = LogMel(config)(torch.stack([low, low + high]), torch.tensor([8000, 8000]))
    assert bool((features[:, :, 61:] == 0).all()) and features.shape[2] == 80
    assert torch.allclose(features[0, 2:-2], features[1, 2:-2], atol=0.2)
