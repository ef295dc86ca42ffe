"""Frame stacking and a gated layer: a shorter sequence for encoders with many frames a second."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .base import ModalityAdapter, cut_windows


class StackAdapter(ModalityAdapter):
    """`stack_factor` frames side by side, a SwiGLU layer between two normalisations, one embedding per stack.

    Frames that the last stack of a clip lacks are zero.

    Source: Ultravox 0.5: stack of 8, width 4,096 before the gate, RMS normalisation before and after SwiGLU.
    """

    def __init__(self, encoder_size: int, hidden_size: int, adapter_config: dict[str, Any]) -> None:
        super().__init__()
        self.frames_per_window = adapter_config.get("stack_factor", 8)
        width = adapter_config.get("width", 4096)
        stacked_size = encoder_size * self.frames_per_window
        self.norm_stack = nn.RMSNorm(stacked_size, eps=1e-6)
        self.gate_and_value = nn.Linear(stacked_size, width, bias=False)
        self.norm = nn.RMSNorm(width // 2, eps=1e-6)
        self.projection = nn.Linear(width // 2, hidden_size)

    def forward(self, encoded: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map `[clips encoder_frames encoder_size]` to `[clips audio_tokens hidden]`; `mask` is true where valid."""
        if mask is not None:
            encoded = encoded.masked_fill(~mask[..., None], 0.0)
        stacks = cut_windows(encoded, self.frames_per_window).flatten(2)
        value, gate = self.gate_and_value(self.norm_stack(stacks)).chunk(2, dim=-1)
        return self.projection(self.norm(nn.functional.silu(gate) * value))
