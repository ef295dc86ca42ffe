"""What every modality adapter is: from encoder frames to embeddings in the LLM's space."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class ModalityAdapter(nn.Module, ABC):
    """Maps windows of encoder frames to audio embeddings, and ends in one linear map to the LLM's width.

    A clip's embeddings depend on its own valid frames alone: what else is in the batch, and how it is padded, changes
    nothing. What enters `projection` has unit variance at the start.
    """

    projection: nn.Linear
    frames_per_window: int = 1
    """Encoder frames that are read together; the last window of a clip may be begun only."""
    embeddings_per_window: int = 1
    """Audio embeddings written for each window."""

    @abstractmethod
    def forward(self, encoded: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map `[clips encoder_frames encoder_size]` to `[clips audio_tokens hidden]`; `mask` is true where valid."""

    def valid_embeddings(self, mask: Tensor) -> Tensor:
        """Which embeddings are valid, `[clips audio_tokens]`, where `mask` says so of the frames they are made of."""
        windows = cut_windows(mask, self.frames_per_window).any(-1)
        return windows.repeat_interleave(self.embeddings_per_window, dim=1)


def cut_windows(frames: Tensor, frames_per_window: int) -> Tensor:
    """`[clips encoder_frames ...]` as `[clips windows frames_per_window ...]`, with zeros after the last frame."""
    missing = -frames.shape[1] % frames_per_window
    if missing:
        padding = frames.new_zeros(frames.shape[0], missing, *frames.shape[2:])
        frames = torch.cat([frames, padding], dim=1)
    return frames.unflatten(1, (-1, frames_per_window))


def initialise_projection(adapter: ModalityAdapter, embedding_rms: float) -> None:
    """Scale the linear map so that audio embeddings start with the root mean square of the LLM's own input embeddings.

    Gemma-class LLMs scale their embeddings inside the embedding module; `embedding_rms` is measured after that scale.
    """
    size = adapter.projection.weight.shape[1]
    with torch.no_grad():
        adapter.projection.weight.normal_(0.0, embedding_rms / size**0.5)
        adapter.projection.bias.zero_()
