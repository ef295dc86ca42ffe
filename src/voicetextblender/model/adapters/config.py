"""The modality adapter as a recipe chooses it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from voicetextblender.audio.lengths import Stage
from voicetextblender.config import StrictConfig
from voicetextblender.errors import ModelError, describe

Stages = tuple[Stage, ...]


class ConformerConfig(StrictConfig):
    """Conformer layers, then one linear map; one embedding per encoder frame (defaults: the authors' configuration).

    Args:
        kind: chooses this adapter; the one taken where no kind is named.
        num_layers: Conformer layers between the encoder and the linear map to the LLM's width.
        num_heads: attention heads per layer; a divisor of the encoder's width.
        feed_forward_factor: width of the feed-forward blocks, in widths of the encoder.
        conv_kernel_size: encoder frames under the depthwise convolution; odd.
        dropout: share of the activations that is zeroed in training.
    """

    kind: Literal["conformer"] = "conformer"
    num_layers: int = Field(2, ge=1)
    num_heads: int = Field(8, ge=1)
    feed_forward_factor: int = Field(4, ge=1)
    conv_kernel_size: int = Field(9, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)

    @property
    def stages(self) -> Stages:
        """From encoder frames to audio embeddings."""
        return ()

    @field_validator("conv_kernel_size")
    @classmethod
    def _check_odd(cls, size: int) -> int:
        if size % 2 == 0:
            raise ValueError("it should be odd")
        return size


class LinearConfig(StrictConfig):
    """One linear map; one embedding per encoder frame (as in Canary-Qwen).

    Args:
        kind: chooses this adapter.
    """

    kind: Literal["linear"] = "linear"

    @property
    def stages(self) -> Stages:
        """From encoder frames to audio embeddings."""
        return ()


class StackConfig(StrictConfig):
    """Frames side by side, then SwiGLU; one embedding per stack (as in Ultravox, whose sizes are the defaults).

    Args:
        kind: chooses this adapter.
        stack_factor: encoder frames per audio embedding.
        width: outputs of the first matrix, gate and value together; even.
    """

    kind: Literal["stack"] = "stack"
    stack_factor: int = Field(8, ge=1)
    width: int = Field(4096, ge=2, multiple_of=2)

    @property
    def stages(self) -> Stages:
        """From encoder frames to audio embeddings: one for each stack, the last of a clip begun only."""
        return (Stage(1, self.stack_factor),)


class QFormerConfig(StrictConfig):
    """Trained queries that attend to windows of frames (as in Granite-Speech, whose sizes are the defaults).

    Args:
        kind: chooses this adapter.
        window: encoder frames that are asked together.
        num_queries: audio embeddings per window.
        num_layers: layers of attention among the queries, attention to the frames and feed-forward.
        num_heads: attention heads per layer; a divisor of the encoder's width.
        feed_forward_factor: width of the feed-forward blocks, in widths of the encoder.
        dropout: share of the activations that is zeroed in training.
    """

    kind: Literal["qformer"] = "qformer"
    window: int = Field(15, ge=1)
    num_queries: int = Field(3, ge=1)
    num_layers: int = Field(2, ge=1)
    num_heads: int = Field(16, ge=1)
    feed_forward_factor: int = Field(4, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)

    @property
    def stages(self) -> Stages:
        """From encoder frames to audio embeddings: all queries for each window, the last of a clip begun only."""
        return (Stage(1, self.window, outputs=self.num_queries),)


def _name_kind(value: Any) -> Any:
    """A section without a kind means the Conformer."""
    return {"kind": "conformer", **value} if isinstance(value, dict) else value


AdapterConfig = Annotated[
    Annotated[ConformerConfig | LinearConfig | StackConfig | QFormerConfig, Field(discriminator="kind")],
    BeforeValidator(_name_kind),
]
"""One of the adapters, by its `kind`."""


def check_heads(adapter: AdapterConfig, encoder_size: int) -> None:
    """Refuse attention heads that do not share the encoder's width evenly.

    Raises:
        ModelError: they do not.
    """
    num_heads = getattr(adapter, "num_heads", 1)
    if encoder_size % num_heads:
        raise ModelError(
            describe(
                "model.adapter.num_heads",
                f"{num_heads} heads",
                f"a divisor of the encoder's width, {encoder_size}",
                "Choose one",
            )
        )
