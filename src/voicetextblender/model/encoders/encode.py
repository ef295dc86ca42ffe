"""Run a speech encoder, long clips in windows."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from voicetextblender.audio.windows import Windows

from .families import Stages, encoder_stages
from .output import EncoderOutput, mask_of_lengths


def encode(tower: PreTrainedModel, features: Tensor, mask: Tensor | None) -> EncoderOutput:
    """Hidden states of `[clips frames bins]`; `mask` `[clips frames]` marks the valid frames (None: all).

    Clips longer than the encoder's `windows` are cut into windows, encoded side by side, and joined again. An encoder
    that does not learn keeps nothing for a backward pass.
    """
    learns = any(parameter.requires_grad for parameter in tower.parameters())
    with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
        windows, stages = windows_of(tower), encoder_stages(tower.config)
        if windows is None or count_frames(stages, features.shape[1]) <= windows.size:
            return tower(input_features=features, attention_mask=mask)
        return _encode_in_windows(tower, features, mask, windows, stages)


def windows_of(tower: PreTrainedModel) -> Windows | None:
    """The windows of an encoder in encoder frames, or None where it takes clips of any length."""
    values = getattr(tower.config, "windows", None)
    return None if values is None else Windows(**values)


def count_frames(stages: Stages, num_frames: int) -> int:
    """Encoder frames of `num_frames` audio frames."""
    for stage in stages:
        num_frames = stage(num_frames)
    return num_frames


def _encode_in_windows(
    tower: PreTrainedModel, features: Tensor, mask: Tensor | None, windows: Windows, stages: Stages
) -> EncoderOutput:
    num_frames = [features.shape[1]] * len(features) if mask is None else mask.sum(1).tolist()
    lengths = [count_frames(stages, count) for count in num_frames]
    stride = prod(stage.stride for stage in stages)
    width, step = max(windows.size * stride, _reach(stages, windows.size)), windows.step * stride
    places = [(clip, index) for clip, length in enumerate(lengths) for index in range(windows.count(length))]
    valid = mask_of_lengths(torch.tensor(num_frames, device=features.device), features.shape[1])
    cut = [(features[clip, index * step :][:width], valid[clip, index * step :][:width]) for clip, index in places]
    pieces, masks = (nn.utils.rnn.pad_sequence(list(parts), batch_first=True) for parts in zip(*cut, strict=True))
    hidden = tower(input_features=pieces, attention_mask=masks).last_hidden_state
    kept = [windows.kept(index, lengths[clip]) for clip, index in places]
    joined = torch.cat([piece[part] for piece, part in zip(hidden, kept, strict=True)]).split(lengths)
    return EncoderOutput(
        nn.utils.rnn.pad_sequence(list(joined), batch_first=True),
        mask_of_lengths(torch.tensor(lengths, device=features.device), max(lengths)),
    )


def _reach(stages: Stages, num_frames: int) -> int:
    """The fewest audio frames that make `num_frames` encoder frames."""
    for stage in reversed(stages):
        num_frames = (num_frames - 1) * stage.stride + stage.kernel - 2 * stage.padding
    return num_frames
