"""The modality adapter of the paper: Conformer layers and a linear map, one embedding per encoder frame."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import ParakeetEncoderConfig
from transformers.models.parakeet.modeling_parakeet import ParakeetEncoderRelPositionalEncoding

from ..encoders.conformer import ConformerBlock, run_layers
from .base import ModalityAdapter


class ConformerAdapter(ModalityAdapter):
    """Conformer layers over the encoder's frames, then one linear map to the LLM's width; one embedding per frame.

    The layers are the library's FastConformer blocks. Their batch normalisation never uses batch statistics (`train`
    leaves it in evaluation mode): a clip's embeddings do not depend on what else is in the batch.

    Source: arXiv 2410.17485 and the authors' configuration: 2 layers, 8 heads, feed-forward x4, kernel 9, dropout 0.1.
    """

    def __init__(self, encoder_size: int, hidden_size: int, adapter_config: dict[str, Any]) -> None:
        super().__init__()
        dropout = adapter_config.get("dropout", 0.1)
        config = ParakeetEncoderConfig(
            hidden_size=encoder_size,
            num_hidden_layers=adapter_config.get("num_layers", 2),
            num_attention_heads=adapter_config.get("num_heads", 8),
            intermediate_size=encoder_size * adapter_config.get("feed_forward_factor", 4),
            conv_kernel_size=adapter_config.get("conv_kernel_size", 9),
            dropout=dropout,
            activation_dropout=dropout,
            attention_dropout=dropout,
        )
        self.dropout = dropout
        self.encode_positions = ParakeetEncoderRelPositionalEncoding(config)
        self.layers = nn.ModuleList(ConformerBlock(config, index) for index in range(config.num_hidden_layers))
        self.projection = nn.Linear(encoder_size, hidden_size)

    def forward(self, encoded: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map `[clips encoder_frames encoder_size]` to `[clips encoder_frames hidden]`; `mask` is true where valid."""
        return self.projection(self.convolve(encoded, mask))

    def convolve(self, encoded: Tensor, mask: Tensor | None = None) -> Tensor:
        """The Conformer layers alone: `[clips encoder_frames encoder_size]` in and out."""
        positions = self.encode_positions(encoded[:1])[0]
        hidden = nn.functional.dropout(encoded, self.dropout, self.training)
        return run_layers(self.layers, hidden, positions, mask)

    def train(self, mode: bool = True) -> ConformerAdapter:
        """Switch dropout on or off; batch normalisation keeps its stored statistics in both modes."""
        super().train(mode)
        freeze_batch_norm(self)
        return self


def freeze_batch_norm(module: nn.Module) -> None:
    """Put every batch normalisation below `module` into evaluation mode: stored statistics, and they do not move."""
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            child.eval()
