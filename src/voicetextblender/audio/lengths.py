"""Every length in the chain from samples to audio placeholder tokens, in integers, in one place.

Each function takes a Python integer, a numpy integer array or a torch integer tensor and returns the same kind.
"""

from __future__ import annotations

from typing import Protocol, TypeVar, runtime_checkable

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


def num_audio_embeddings(
    num_encoder_frames: Length, frames_per_window: int = 1, embeddings_per_window: int = 1
) -> Length:
    """Embeddings that leave the modality adapter: the same for each window of encoder frames, the last one too."""
    return (num_encoder_frames + (frames_per_window - 1)) // frames_per_window * embeddings_per_window


def num_audio_tokens(
    num_samples: Length,
    hop_length: int = HOP_LENGTH,
    subsampling_factor: int = SUBSAMPLING_FACTOR,
    frames_per_window: int = 1,
    embeddings_per_window: int = 1,
) -> Length:
    """Placeholder tokens, and so audio embeddings, of a clip of `num_samples`."""
    num_frames = num_encoder_frames(num_audio_frames(num_samples, hop_length), subsampling_factor)
    return num_audio_embeddings(num_frames, frames_per_window, embeddings_per_window)


def resampled_num_samples(num_samples: Length, source_rate: int, target_rate: int) -> Length:
    """Samples after resampling from `source_rate` to `target_rate` Hz, rounded half up."""
    return (num_samples * (2 * target_rate) + source_rate) // (2 * source_rate)
