"""SpecAugment: bands and stretches of the features of a training clip are silenced, by a key."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from voicetextblender.config import StrictConfig


class SpecAugmentConfig(StrictConfig):
    """How much is masked; the defaults are those of the authors' released configuration.

    Args:
        num_frequency_masks: bands silenced per clip.
        max_frequency_width: widest band, in mel bands.
        num_time_masks: stretches silenced per clip.
        max_time_fraction: longest stretch, as a fraction of the audio frames of the clip.

    Source: Park et al., SpecAugment, arXiv 1904.08779; widths relative to length: arXiv 1912.05533.
    """

    num_frequency_masks: int = Field(default=2, ge=0)
    max_frequency_width: int = Field(default=27, ge=0)
    num_time_masks: int = Field(default=10, ge=0)
    max_time_fraction: float = Field(default=0.05, ge=0.0, le=1.0)


def spec_augment(
    features: Float[Tensor, "clips frames mels"],
    num_frames: Int[Tensor, " clips"],
    config: SpecAugmentConfig,
    keys: Sequence[int],
) -> Float[Tensor, "clips frames mels"]:
    """A copy of `features` with masked bands and stretches set to 0, the mean of a normalised band.

    The masks of a clip depend on its key and its number of frames alone, not on the batch it is in.

    Args:
        keys: one non-negative integer per clip.
    """
    assert len(keys) == features.shape[0], "one key per clip"
    _, frames, mels = features.shape
    masked_frames = np.zeros((len(keys), frames), dtype=np.bool_)
    masked_mels = np.zeros((len(keys), mels), dtype=np.bool_)
    for clip, (key, length) in enumerate(zip(keys, num_frames.tolist(), strict=True)):
        random = np.random.default_rng(key)
        _mask(masked_mels[clip], mels, config.num_frequency_masks, config.max_frequency_width, random)
        _mask(masked_frames[clip], length, config.num_time_masks, int(length * config.max_time_fraction), random)
    by_frame = torch.from_numpy(masked_frames).to(features.device)
    by_mel = torch.from_numpy(masked_mels).to(features.device)
    return features.masked_fill(by_frame[:, :, None] | by_mel[:, None, :], 0.0)


def _mask(masked: np.ndarray, length: int, num_masks: int, max_width: int, random: np.random.Generator) -> None:
    """Mark `num_masks` stretches of 0 to `max_width` positions within the first `length` of `masked`."""
    for _ in range(num_masks):
        width = int(random.integers(0, min(max_width, length) + 1))
        start = int(random.integers(0, length - width + 1))
        masked[start : start + width] = True
