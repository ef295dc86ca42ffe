"""Mel filter bank features after Kaldi, of a batch of clips: what W2V-BERT takes."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from voicetextblender.audio.lengths import HOP_LENGTH, Stage
from voicetextblender.config import StrictConfig
from voicetextblender.units import SAMPLING_RATE

WIN_LENGTH = 400
"""Samples under one frame: 25 ms. Source of the numbers here: Kaldi's `compute-fbank-feats` and its defaults."""
N_FFT = 512
PREEMPHASIS = 0.97
LOWEST_HZ = 20.0
POVEY_EXPONENT = 0.85
"""The window is a Hann window to this power."""
POWER_FLOOR = float(np.finfo(np.float32).eps)
FULL_SCALE = 2.0**15
"""Kaldi reads samples as 16-bit integers."""
VARIANCE_EPSILON = 1e-7
"""Added to the variance of a band. Source: the library's extractor of SeamlessM4T, as is the normalisation."""


class FbankConfig(StrictConfig):
    """Geometry of the features; lengths are Kaldi's defaults: frames of 25 ms every 10 ms."""

    kind: Literal["fbank"] = "fbank"
    num_mels: int = Field(80, gt=0)
    sampling_rate: Literal[16_000] = 16_000

    @property
    def framing(self) -> Stage:
        """Whole windows of 25 ms alone make frames."""
        return Stage(WIN_LENGTH, HOP_LENGTH)


class Fbank:
    """Log mel powers of windows without their mean, each band to mean 0 and variance 1 over its clip; float32."""

    def __init__(self, config: FbankConfig) -> None:
        self.config = config
        self._constants: dict[torch.device, tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def __call__(
        self, waveforms: Float[Tensor, "clips samples"], num_samples: Int[Tensor, " clips"]
    ) -> tuple[Float[Tensor, "clips frames mels"], Int[Tensor, " clips"]]:
        """Features and frames per clip; padding frames are zero.

        What stands in `waveforms` after `num_samples` has no influence.
        """
        with torch.autocast(waveforms.device.type, enabled=False):
            num_frames = self.config.framing(num_samples)
            windows = waveforms.float().unfold(1, WIN_LENGTH, HOP_LENGTH)[:, : int(num_frames.max())]
            after = torch.arange(windows.shape[1], device=windows.device) >= num_frames[:, None]
            features = self._log_mel(windows.masked_fill(after[:, :, None], 0.0))
            return _normalise(features, after[:, :, None], num_frames), num_frames

    def _log_mel(self, windows: Float[Tensor, "clips frames samples"]) -> Float[Tensor, "clips frames mels"]:
        window, mel_filters = self._constants_on(windows.device)
        centred = (windows - windows.mean(-1, keepdim=True)) * FULL_SCALE
        previous = torch.cat([centred[..., :1], centred[..., :-1]], dim=-1)
        power = torch.fft.rfft((centred - PREEMPHASIS * previous) * window, n=N_FFT).abs().square()
        return (power @ mel_filters).clamp(min=POWER_FLOOR).log()

    def _constants_on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._constants:
            hann = torch.hann_window(WIN_LENGTH, periodic=False, dtype=torch.float64, device="cpu")
            filters = torch.from_numpy(_mel_filter_bank(self.config.num_mels))
            self._constants[device] = (hann.pow(POVEY_EXPONENT).float().to(device), filters.to(device))
        return self._constants[device]


def _normalise(
    features: Float[Tensor, "clips frames mels"], after: Tensor, num_frames: Int[Tensor, " clips"]
) -> Float[Tensor, "clips frames mels"]:
    count = num_frames[:, None, None]
    mean = features.masked_fill(after, 0.0).sum(dim=1, keepdim=True) / count.clamp(min=1)
    centred = (features - mean).masked_fill(after, 0.0)
    variance = centred.square().sum(dim=1, keepdim=True) / (count - 1).clamp(min=1)
    return centred / (variance + VARIANCE_EPSILON).sqrt()


def _mel_filter_bank(num_mels: int) -> np.ndarray:
    """Filters that are triangles on Kaldi's mel scale, from 20 Hz to half the sampling rate, [bins, mels]."""
    bins = _hz_to_mel(np.fft.rfftfreq(N_FFT, d=1.0 / SAMPLING_RATE))
    lowest, highest = _hz_to_mel(np.array([LOWEST_HZ, SAMPLING_RATE / 2]))
    edges = np.linspace(lowest, highest, num_mels + 2)
    distance = bins[:, None] - edges[None, :]
    widths = np.diff(edges)
    filters: np.ndarray = np.minimum(distance[:, :-2] / widths[:-1], -distance[:, 2:] / widths[1:])
    return np.maximum(0.0, filters).astype(np.float32)


def _hz_to_mel(frequency_hz: np.ndarray) -> np.ndarray:
    mels: np.ndarray = 1127.0 * np.log1p(frequency_hz / 700.0)
    return mels
