"""FastConformer layers in which padding takes part in nothing but attention and depthwise convolution.

The library computes every layer for all frames of a padded batch. Here the valid frames of all clips stand side by
side, and are spread over a padded rectangle only where frames of a clip meet. Weights, their names and results are the
library's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import ParakeetEncoder, ParakeetEncoderConfig
from transformers.models.parakeet.modeling_parakeet import (
    ParakeetEncoderAttention,
    ParakeetEncoderBlock,
    ParakeetEncoderConvolutionModule,
    ParakeetEncoderModelOutput,
)

from .output import mask_of_lengths


class ConformerBlock(ParakeetEncoderBlock):
    """The library's layer over the valid frames of all clips."""

    def forward(self, frames: Tensor, positions: Tensor, places: Tensor, mask: Tensor) -> Tensor:
        """Map `[frames size]`, the valid frames of all clips, to the same.

        Args:
            positions: `[2 * width - 1, size]`, of the distances from `width - 1` down to `1 - width`.
            places: `[frames]`, where each frame stands in `mask`, flattened: its true places, in order.
            mask: `[clips width]`, true where a clip has a frame.
        """
        frames = torch.add(frames, self.feed_forward1(self.norm_feed_forward1(frames)), alpha=0.5)
        frames = frames + _attend(self.self_attn, self.norm_self_att(frames), positions, places, mask)
        frames = frames + _convolve(self.conv, self.norm_conv(frames), places, mask)
        frames = torch.add(frames, self.feed_forward2(self.norm_feed_forward2(frames)), alpha=0.5)
        normed: Tensor = self.norm_out(frames)
        return normed


class FastConformerTower(ParakeetEncoder):
    """The library's encoder with such layers. It drops none of them at random (`layerdrop`)."""

    def __init__(self, config: ParakeetEncoderConfig) -> None:
        super().__init__(config)
        for layer in self.layers:
            layer.__class__ = ConformerBlock

    def forward(
        self, input_features: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> ParakeetEncoderModelOutput:
        """Hidden states of `[clips frames bins]`, zero behind a clip; `attention_mask` `[clips frames]`, None: all."""
        hidden = self.subsampling(input_features, attention_mask) * self.input_scale
        hidden = nn.functional.dropout(hidden, self.dropout, self.training)
        positions = self.encode_positions(hidden[:1])[0]
        positions = nn.functional.dropout(positions, self.dropout_positions, self.training)
        mask = None
        if attention_mask is not None:
            mask = mask_of_lengths(self._get_subsampling_output_length(attention_mask.sum(1)), hidden.shape[1])
        return ParakeetEncoderModelOutput(run_layers(self.layers, hidden, positions, mask), attention_mask=mask)


def run_layers(layers: Iterable[nn.Module], hidden: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
    """`ConformerBlock`s one after the other over `[clips width size]`, with `positions` and `mask` as they take them.

    Without a mask all frames are valid. What stands behind a clip is not looked at, and zero in the result.
    """
    if mask is None:
        mask = hidden.new_ones(hidden.shape[:2], dtype=torch.bool)
    places = mask.flatten().nonzero().flatten()
    frames = _collect(hidden, places)
    for layer in layers:
        frames = layer(frames, positions, places, mask)
    return _spread(frames, places, mask)


def _spread(frames: Tensor, places: Tensor, mask: Tensor) -> Tensor:
    return frames.new_zeros(mask.numel(), frames.shape[1]).index_copy(0, places, frames).unflatten(0, mask.shape)


def _collect(hidden: Tensor, places: Tensor) -> Tensor:
    return hidden.flatten(0, 1).index_select(0, places)


def _attend(
    attention: ParakeetEncoderAttention, frames: Tensor, positions: Tensor, places: Tensor, mask: Tensor
) -> Tensor:
    """Attention with relative positions; their keys are the same for all clips, and made once."""
    projected = [project(frames) for project in (attention.q_proj, attention.k_proj, attention.v_proj)]
    heads = _spread(torch.cat(projected, 1), places, mask).unflatten(2, (3, -1, attention.head_dim))
    queries, keys, values = heads.permute(2, 0, 3, 1, 4)
    of_positions = attention.relative_k_proj(positions).unflatten(1, (-1, attention.head_dim)).permute(1, 2, 0)
    scores = attention._rel_shift((queries + attention.bias_v[:, None]) @ of_positions)[..., : mask.shape[1]]
    attended = nn.functional.scaled_dot_product_attention(
        queries + attention.bias_u[:, None],
        keys,
        values,
        attn_mask=(scores * attention.scaling).masked_fill(~mask[:, None, None], torch.finfo(scores.dtype).min),
        dropout_p=attention.attention_dropout if attention.training else 0.0,
        scale=attention.scaling,
    )
    written: Tensor = attention.o_proj(_collect(attended.transpose(1, 2).flatten(2), places))
    return written


def _convolve(module: ParakeetEncoderConvolutionModule, frames: Tensor, places: Tensor, mask: Tensor) -> Tensor:
    """The convolution module; convolutions over single frames are the matrix products that they are."""
    gated = nn.functional.glu(_convolve_one(module.pointwise_conv1, frames), 1)
    hidden = module.depthwise_conv(_spread(gated, places, mask).transpose(1, 2)).transpose(1, 2)
    return _convolve_one(module.pointwise_conv2, module.activation(module.norm(_collect(hidden, places))))


def _convolve_one(pointwise: nn.Conv1d, frames: Tensor) -> Tensor:
    return nn.functional.linear(frames, pointwise.weight.squeeze(2), pointwise.bias)
