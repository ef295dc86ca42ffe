"""Waveforms as features: what wav2vec2, HuBERT and WavLM take, whose first layers are convolutions over samples."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from voicetextblender.audio.lengths import Stage
from voicetextblender.config import StrictConfig

VARIANCE_EPSILON = 1e-7
"""Added to the variance of a clip. Source: the library's extractor of wav2vec2."""


class RawConfig(StrictConfig):
    """What is done to the samples.

    Args:
        normalise: brings each clip to mean 0 and variance 1; what the encoder's checkpoint was trained with.
    """

    kind: Literal["raw"] = "raw"
    normalise: bool
    sampling_rate: Literal[16_000] = 16_000

    @property
    def framing(self) -> Stage:
        """A sample is a frame."""
        return Stage(1, 1)


class Raw:
    """Samples of each clip, normalised over the clip or as they are; float32."""

    def __init__(self, config: RawConfig) -> None:
        self.config = config

    @torch.no_grad()
    def __call__(
        self, waveforms: Float[Tensor, "clips samples"], num_samples: Int[Tensor, " clips"]
    ) -> tuple[Float[Tensor, "clips frames one"], Int[Tensor, " clips"]]:
        """One value per sample, and samples per clip; padding is zero."""
        with torch.autocast(waveforms.device.type, enabled=False):
            after = torch.arange(waveforms.shape[1], device=waveforms.device) >= num_samples[:, None]
            samples = waveforms.float().masked_fill(after, 0.0)
            if self.config.normalise:
                count = num_samples[:, None].clamp(min=1)
                centred = (samples - samples.sum(1, keepdim=True) / count).masked_fill(after, 0.0)
                variance = centred.square().sum(1, keepdim=True) / count
                samples = centred / (variance + VARIANCE_EPSILON).sqrt()
            return samples[:, :, None], num_samples
