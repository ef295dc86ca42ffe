"""A Q-Former over windows of frames: trained queries that ask each window for what the LLM needs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .base import ModalityAdapter, cut_windows


class QFormerAdapter(ModalityAdapter):
    """`num_queries` trained queries per window of frames; they attend to each other and to the window's valid frames.

    Source: Granite-Speech: windows of 15 frames, 3 queries, 2 layers with 16 heads and feed-forward x4, each block
    followed by a layer normalisation (BLIP-2, arXiv 2301.12597).
    """

    def __init__(self, encoder_size: int, hidden_size: int, adapter_config: dict[str, Any]) -> None:
        super().__init__()
        self.frames_per_window = adapter_config.get("window", 15)
        self.embeddings_per_window = adapter_config.get("num_queries", 3)
        self.queries = nn.Parameter(torch.randn(self.embeddings_per_window, encoder_size))
        self.norm = nn.LayerNorm(encoder_size)
        self.layers = nn.ModuleList(
            QFormerLayer(encoder_size, adapter_config) for _ in range(adapter_config.get("num_layers", 2))
        )
        self.projection = nn.Linear(encoder_size, hidden_size)

    def forward(self, encoded: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map `[clips encoder_frames encoder_size]` to `[clips audio_tokens hidden]`; `mask` is true where valid."""
        if mask is None:
            mask = encoded.new_ones(encoded.shape[:2], dtype=torch.bool)
        frames = cut_windows(encoded, self.frames_per_window).flatten(0, 1)
        valid = cut_windows(mask, self.frames_per_window).flatten(0, 1)
        # A window that lies wholly in the padding attends to all of it: what it gives is dropped, but must be finite.
        valid = valid | ~valid.any(-1, keepdim=True)
        queries = self.norm(self.queries).to(encoded.dtype).expand(len(frames), -1, -1)
        for layer in self.layers:
            queries = layer(queries, frames, valid)
        return self.projection(queries.unflatten(0, (len(encoded), -1)).flatten(1, 2))


class QFormerLayer(nn.Module):
    """Attention among the queries, attention to the frames, feed-forward; each is added and then normalised."""

    def __init__(self, size: int, config: dict[str, Any]) -> None:
        super().__init__()
        num_heads, inner_size = config.get("num_heads", 16), size * config.get("feed_forward_factor", 4)
        self.self_attention, self.cross_attention = Attention(size, num_heads), Attention(size, num_heads)
        self.feed_forward = nn.Sequential(nn.Linear(size, inner_size), nn.GELU(), nn.Linear(inner_size, size))
        self.norms = nn.ModuleList(nn.LayerNorm(size) for _ in range(3))
        self.dropout = nn.Dropout(config.get("dropout", 0.1))

    def forward(self, queries: Tensor, frames: Tensor, valid: Tensor) -> Tensor:
        """`queries` is `[windows queries size]`, `frames` `[windows frames size]`, `valid` `[windows frames]`."""
        among, to_frames, last = self.norms
        queries = among(queries + self.dropout(self.self_attention(queries, queries)))
        queries = to_frames(queries + self.dropout(self.cross_attention(queries, frames, valid[:, None, None])))
        return last(queries + self.dropout(self.feed_forward(queries)))


class Attention(nn.Module):
    """Multi-head attention of one sequence to another."""

    def __init__(self, size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(size, size) for _ in range(4))

    def forward(self, asking: Tensor, asked: Tensor, mask: Tensor | None = None) -> Tensor:
        """`asking` is `[batch queries size]`, `asked` `[batch keys size]`; `mask` is true where a key may be seen."""
        pairs = ((self.q_proj, asking), (self.k_proj, asked), (self.v_proj, asked))
        q, k, v = (project(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for project, x in pairs)
        attended = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.o_proj(attended.transpose(1, 2).flatten(2))
