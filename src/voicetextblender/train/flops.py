"""Floating-point operations of a training step, and what share of a GPU's peak they are (MFU).

Counted is what the method needs: no padding of any kind, and nothing twice that is computed again to save memory. A
weight that is multiplied costs 2 operations per position in the forward pass, 2 more where a gradient must pass on
through it, and 2 more where it learns itself: 6 in all for what learns, 4 for a frozen weight behind one that learns, 2
for a frozen weight before all that learn. The head counts at supervised positions alone. Attention costs 4 operations
per pair of positions and channel (half of the pairs where it is causal, and within one conversation or window alone),
and twice that again in the backward pass. Convolutions before the encoder's layers count like one multiplication per
encoder frame, 1 % too little.

Source: PaLM, arXiv 2204.02311, appendix B, for the definition of MFU; the split for frozen weights is ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from voicetextblender.audio.lengths import TokenCount
from voicetextblender.batch import PADDING, Batch
from voicetextblender.model.encoders.encode import windows_of
from voicetextblender.model.modeling import VoiceTextBlenderForConditionalGeneration

FORWARD, ACTIVATION_GRADIENT, WEIGHT_GRADIENT = 2, 2, 2

PEAK_FLOPS = {
    "GB200": 2500e12,
    "B200": 2250e12,
    "GH200": 989e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "A40": 150e12,
    "A30": 165e12,
    "A10": 125e12,
    "A10G": 70e12,
    "A6000": 155e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "V100": 125e12,
    "4090": 165e12,
}
"""Dense bf16 (V100: fp16) operations a second by words of the GPU's name; the first whose words are all in it counts.

Source: NVIDIA's data sheets.
"""


class StepFlops(NamedTuple):
    """Forward and backward operations of one model, by what they grow with."""

    per_token: float
    per_frame: float
    """Per encoder frame."""
    per_supervised: float
    per_token_pair: float
    """Per pair of a token with one before it, itself included."""
    per_frame_pair: float
    window: int | None = None
    """Encoder frames that see each other at most; None: all of a clip."""

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
            + self.per_frame_pair * sum(map(self._count_frame_pairs, clips))
        )

    def of_batches(self, batches: Sequence[Batch], num_encoder_frames: TokenCount) -> float:
        """Operations of these microbatches; `num_encoder_frames` takes the samples of a clip."""
        lengths = [batch.conversation_ids[batch.conversation_ids != PADDING].bincount() for batch in batches]
        return self.of(
            [length for batch in lengths for length in batch.tolist()],
            [num_encoder_frames(len(waveform)) for batch in batches for waveform in batch.waveforms],
            sum(batch.num_supervised for batch in batches),
        )

    def _count_frame_pairs(self, num_frames: int) -> int:
        if self.window is None:
            return num_frames**2
        num_whole, rest = divmod(num_frames, self.window)
        return num_whole * self.window**2 + rest**2


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
    windows = windows_of(composite.audio_tower)
    return StepFlops(
        per_token=llm,
        per_frame=encoder + adapter * composite.adapter.embeddings_per_window / composite.adapter.frames_per_window,
        per_supervised=head,
        per_token_pair=token_pair * (3 if learns_before else 1),
        per_frame_pair=frame_pair * (3 if encoder_learns else 1),
        window=None if windows is None else windows.size,
    )


def peak_flops(device: torch.device) -> float | None:
    """Peak bf16 operations a second of a GPU; None for one that is not in the table, and for a CPU."""
    return find_peak(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def find_peak(device_name: str) -> float | None:
    """The peak in the table of a GPU by its name."""
    words = set(re.split(r"[\s-]+", device_name))
    return next((peak for name, peak in PEAK_FLOPS.items() if words.issuperset(name.split())), None)


def _cost(weights: Iterable[nn.Parameter], learns_before: bool) -> tuple[float, bool]:
    """Operations per position of weights in the order of the forward pass, and whether anything learns up to there."""
    cost = 0.0
    for weight in weights:
        learns_before = learns_before or weight.requires_grad
        factor = FORWARD + ACTIVATION_GRADIENT * learns_before + WEIGHT_GRADIENT * weight.requires_grad
        cost += factor * weight.numel()
    return cost, learns_before
