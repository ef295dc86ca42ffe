"""The smallest modality adapter: one linear map, one embedding per encoder frame."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .base import ModalityAdapter


class LinearAdapter(ModalityAdapter):
    """One linear map from the encoder's width to the LLM's.

    Source: Canary-Qwen-2.5B, which joins a FastConformer and Qwen3 so.
    """

    def __init__(self, encoder_size: int, hidden_size: int, adapter_config: dict[str, Any]) -> None:
        super().__init__()
        self.projection = nn.Linear(encoder_size, hidden_size)

    def forward(self, encoded: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map `[clips encoder_frames encoder_size]` to `[clips encoder_frames hidden]`; frames do not meet."""
        return self.projection(encoded)
