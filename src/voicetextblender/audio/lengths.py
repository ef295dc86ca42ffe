"""Every length in the chain from samples to audio placeholder tokens, in integers, in one place.

Each function takes a Python integer, a numpy integer array or a torch integer tensor and returns the same kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

HOP_LENGTH = 160
"""Samples from one audio frame to the next: 10 ms at 16 kHz."""
SUBSAMPLING_FACTOR = 8
"""Audio frames from one encoder frame to the next: 80 ms at 16 kHz."""


Length = TypeVar("Length", bound="Countable")


@runtime_checkable
class Countable(Protocol):
    """What lengths are made of. Written so that reading a waveform does not import torch, which takes seconds."""

    def __add__(self: Length, other: int, /) -> Length: ...
    def __mul__(self: Length, other: int, /) -> Length: ...
    def __floordiv__(self: Length, other: int, /) -> Length: ...
    def __gt__(self, other: int, /) -> Any: ...


def num_audio_frames(num_samples: Length, hop_length: int = HOP_LENGTH) -> Length:
    """Whole hops in `num_samples`; a tail shorter than one hop makes no frame."""
    return num_samples // hop_length


def num_encoder_frames(num_audio_frames: Length, subsampling_factor: int = SUBSAMPLING_FACTOR) -> Length:
    """Frames that leave the encoder: each of its stride-2 convolutions keeps ceil(n / 2).

    Args:
        subsampling_factor: a power of two; the number of stride-2 stages is its logarithm.

    Source:
        kernel 3, stride 2, padding 1 of FastConformer's convolutional subsampling: floor((n + 2 - 3) / 2) + 1.
    """
    assert subsampling_factor > 0 and subsampling_factor & (subsampling_factor - 1) == 0
    for _ in range(subsampling_factor.bit_length() - 1):
        num_audio_frames = (num_audio_frames + 1) // 2
    return num_audio_frames


def num_audio_tokens(
    num_samples: Length, hop_length: int = HOP_LENGTH, subsampling_factor: int = SUBSAMPLING_FACTOR
) -> Length:
    """Placeholder tokens, and so audio embeddings, of a clip of `num_samples`."""
    return num_encoder_frames(num_audio_frames(num_samples, hop_length), subsampling_factor)


class Stage(NamedTuple):
    """One step from samples to audio tokens that slides a window: framing, a convolution, the stacking of frames.

    Lengths are in what enters the stage: `kernel` under one window, `stride` from one window to the next, `padding`
    added at either end, `outputs` what each window makes.
    """

    kernel: int
    stride: int
    padding: int = 0
    outputs: int = 1

    def __call__(self, length: Length) -> Length:
        """What leaves the stage: the outputs of the windows that fit, 0 where not one does."""
        count = (length + (2 * self.padding - self.kernel + self.stride)) // self.stride
        return count * (count > 0) * self.outputs


HALVING = Stage(3, 2, 1)
"""A stride-2 convolution of FastConformer's subsampling: ceil(n / 2)."""


@dataclass(frozen=True)
class TokenCount:
    """How many audio placeholder tokens a clip takes: every stage from samples to audio embeddings, in integers.

    Picklable, and knows nothing of weights.
    """

    stages: tuple[Stage, ...]

    def __call__(self, num_samples: Length) -> Length:
        """Audio placeholder tokens, and so audio embeddings, of a clip of `num_samples`."""
        for stage in self.stages:
            num_samples = stage(num_samples)
        return num_samples

    @property
    def fingerprint(self) -> str:
        """A string that changes when the number of audio tokens per clip may."""
        return " ".join("/".join(map(str, stage)) for stage in self.stages)


FASTCONFORMER_TOKENS = TokenCount((Stage(HOP_LENGTH, HOP_LENGTH), HALVING, HALVING, HALVING))
"""That of FastConformer encoders with a subsampling factor of 8: the same as `num_audio_tokens`."""


def resampled_num_samples(num_samples: Length, source_rate: int, target_rate: int) -> Length:
    """Samples after resampling from `source_rate` to `target_rate` Hz, rounded half up."""
    return (num_samples * (2 * target_rate) + source_rate) // (2 * source_rate)
