"""Clips of many lengths, encoded in groups of similar length: little padding, and the order of the caller."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from voicetextblender.audio.augment import SpecAugmentConfig, spec_augment
from voicetextblender.audio.front_end import FrontEnd, extract_features
from voicetextblender.audio.groups import group_by_length
from voicetextblender.audio.raw import RawConfig
from voicetextblender.errors import ModelError, describe
from voicetextblender.model.modeling import VoiceTextBlenderModel

NOTHING_SAMPLES = 1600
"""Silence for a pass of the encoder without clips: a tenth of a second, enough for a frame of every family."""


def embed_clips(
    model: VoiceTextBlenderModel,
    front_end: FrontEnd,
    waveforms: Sequence[Float[Tensor, " _samples"]],
    num_audio_tokens: Sequence[int],
    augment: SpecAugmentConfig | None = None,
    keys: Sequence[int] = (),
    min_passes: int = 0,
) -> Float[Tensor, "audio_tokens hidden"]:
    """Audio embeddings of all clips, one after the other in the order given.

    Args:
        num_audio_tokens: Per clip, what the integer arithmetic promises; the encoder must give exactly that many.
        augment: SpecAugment for training, keyed by `keys`, one per clip.
        min_passes: times that the encoder runs at least; passes without clips add no rows, and a gradient of zero.

    Raises:
        ModelError: SpecAugment on an encoder that takes samples.
    """
    if augment is not None and isinstance(front_end.config, RawConfig):
        found, expected = "masks on features, but the encoder takes samples", "null for wav2vec2, HuBERT and WavLM"
        raise ModelError(describe("train.spec_augment", found, expected, "Set it to null"))
    pieces: dict[int, Tensor] = {}
    groups = group_by_length([len(waveform) for waveform in waveforms], model.group_cost)
    for group in groups:
        features, mask = extract_features(front_end, [waveforms[index] for index in group])
        if augment is not None:
            features = spec_augment(features, mask.sum(1), augment, [keys[index] for index in group])
        embeddings = model.get_audio_features(features, mask).pooler_output
        counts = [num_audio_tokens[index] for index in group]
        assert embeddings.shape[0] == sum(counts), "the encoder's output length differs from num_audio_tokens"
        pieces.update(zip(group, embeddings.split(counts), strict=True))
    nothing = [_embed_nothing(model, front_end) for _ in range(min_passes - len(groups))]
    return torch.cat([*(pieces[index] for index in range(len(waveforms))), *nothing])


def _embed_nothing(model: VoiceTextBlenderModel, front_end: FrontEnd) -> Float[Tensor, "0 hidden"]:
    """What the encoder and the adapter make of silence, without any of its rows."""
    features, mask = extract_features(front_end, [torch.zeros(NOTHING_SAMPLES, device=model.device)])
    return model.get_audio_features(features, mask).pooler_output[:0]
