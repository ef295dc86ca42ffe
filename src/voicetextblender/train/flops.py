"""Floating-point operations of a training step, and what share of a GPU's peak they are (MFU).

Counted is what the method needs, and not what is computed twice to save memory. A weight that is multiplied costs 2
operations per position in the forward pass, 2 more where a gradient must pass on through it, and 2 more where it learns
itself: 6 in all for what learns, 4 for a frozen weight behind one that learns, 2 for a frozen weight before all that
learn. The head counts at supervised positions alone. Attention costs 4 operations per pair of positions and channel
(half of the pairs where it is causal, and within one conversation alone), and twice that again in the backward pass.
Convolutions before the encoder's layers count like one multiplication per encoder frame, 1 % too little.

Source: PaLM, arXiv 2204.02311, appendix B, for the definition of MFU; the split for frozen weights is ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from torch import nn

from voicetextblender.model.modeling import VoiceTextBlenderForConditionalGeneration

FORWARD, ACTIVATION_GRADIENT, WEIGHT_GRADIENT = 2, 2, 2

PEAK_FLOPS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "V100": 125e12,
    "4090": 165e12,
}
"""Dense bf16 (V100: fp16) operations a second by a part of the GPU's name. Source: NVIDIA's data sheets."""


class StepFlops(NamedTuple):
    """Forward and backward operations of one model, by what they grow with."""

    per_token: float
    per_frame: float
    """Per encoder frame."""
    per_supervised: float
    per_token_pair: float
    """Per pair of a token with one before it, itself included."""
    per_frame_pair: float

    def of(self, conversations: Sequence[int], clips: Sequence[int], num_supervised: int) -> float:
        """Operations of a step.

        Args:
            conversations: tokens of each.
            clips: encoder frames of each.
        """
        return (
            self.per_token * sum(conversations)
            + self.per_frame * sum(clips)
            + self.per_supervised * num_supervised
            + self.per_token_pair * sum(length * (length + 1) / 2 for length in conversations)
            + self.per_frame_pair * sum(length**2 for length in clips)
        )


def count_flops(model: VoiceTextBlenderForConditionalGeneration) -> StepFlops:
    """The operations of `model` as it learns, its weights' `requires_grad` included; works on the meta device too."""
    composite, config = model.model, model.config
    embedding = composite.get_input_embeddings()
    learns_before = False
    costs = []
    for part in (composite.audio_tower, composite.adapter, composite.language_model):
        weights = [p for p in part.parameters() if p.ndim >= 2 and p is not embedding.weight]
        cost, learns_before = _cost(weights, learns_before)
        costs.append(cost)
    encoder, adapter, llm = costs
    head, _ = _cost([p for p in model.lm_head.parameters() if p.ndim >= 2], learns_before)
    audio: Any = config.audio_config
    text: Any = config.text_config
    head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    token_pair = 4 * head_size * text.num_attention_heads * text.num_hidden_layers
    frame_pair = 4 * audio.hidden_size * audio.num_hidden_layers
    encoder_learns = any(p.requires_grad for p in composite.audio_tower.parameters())
    window = composite.adapter.frames_per_window
    return StepFlops(
        per_token=llm,
        per_frame=encoder + adapter * composite.adapter.embeddings_per_window / window,
        per_supervised=head,
        per_token_pair=token_pair * (3 if learns_before else 1),
        per_frame_pair=frame_pair * (3 if encoder_learns else 1),
    )


def peak_flops(device_name: str) -> float | None:
    """Peak bf16 operations a second of a GPU by its name; None where the table does not have it."""
    return next((peak for name, peak in PEAK_FLOPS.items() if name in device_name), None)


def _cost(weights: Iterable[nn.Parameter], learns_before: bool) -> tuple[float, bool]:
    """Operations per position of weights in the order of the forward pass, and whether anything learns up to there."""
    cost = 0.0
    for weight in weights:
        learns_before = learns_before or weight.requires_grad
        factor = FORWARD + ACTIVATION_GRADIENT * learns_before + WEIGHT_GRADIENT * weight.requires_grad
        cost += factor * weight.numel()
    return cost, learns_before
