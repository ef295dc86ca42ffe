"""The one dataclass on which data and model agree: what a microbatch is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from voicetextblender.chat.render import Rendered


@dataclass(frozen=True)
class Batch:
    """Rendered conversations of one microbatch, right-padded, with the clips that stand in them.

    Invariants (checked by `check`): padding is known by `num_tokens` alone; no position is both audio and supervised;
    the first token of a row is never supervised (nothing predicts it); clips come in row-major order of their places.
    """

    token_ids: Int[Tensor, "rows tokens"]
    num_tokens: Int[Tensor, " rows"]
    supervision_mask: Bool[Tensor, "rows tokens"]
    audio_mask: Bool[Tensor, "rows tokens"]
    num_audio_tokens: tuple[int, ...]
    """One per clip; their sum is the number of true values in `audio_mask`."""
    waveforms: tuple[Float[Tensor, " _samples"], ...]
    clip_keys: tuple[int, ...]
    """One per clip: all randomness of that clip (augmentation) follows from it."""
    tasks: tuple[str, ...]
    """One per row."""

    @property
    def num_supervised(self) -> int:
        """Supervised tokens in this microbatch."""
        return int(self.supervision_mask.sum())

    @property
    def num_samples(self) -> int:
        """Audio samples in this microbatch."""
        return sum(len(waveform) for waveform in self.waveforms)

    def check(self) -> None:
        """Assert the invariants; they can only break by a mistake of ours."""
        positions = torch.arange(self.token_ids.shape[1])
        valid = positions < self.num_tokens[:, None]
        assert not (self.supervision_mask & ~valid).any() and not (self.audio_mask & ~valid).any()
        assert not (self.supervision_mask & self.audio_mask).any()
        assert not self.supervision_mask[:, 0].any()
        assert int(self.audio_mask.sum()) == sum(self.num_audio_tokens)
        assert len(self.waveforms) == len(self.clip_keys) == len(self.num_audio_tokens)
        assert len(self.tasks) == self.token_ids.shape[0]

    def to(self, device: torch.device) -> Batch:
        """The same microbatch with every tensor on `device`."""
        return replace(
            self,
            token_ids=self.token_ids.to(device, non_blocking=True),
            num_tokens=self.num_tokens.to(device, non_blocking=True),
            supervision_mask=self.supervision_mask.to(device, non_blocking=True),
            audio_mask=self.audio_mask.to(device, non_blocking=True),
            waveforms=tuple(waveform.to(device, non_blocking=True) for waveform in self.waveforms),
        )


def collate(
    rendered: Sequence[Rendered],
    waveforms: Sequence[Sequence[np.ndarray]],
    clip_keys: Sequence[Sequence[int]],
    tasks: Sequence[str],
) -> Batch:
    """Pad rendered conversations to the longest; `waveforms` and `clip_keys` hold one sequence per conversation."""
    num_rows, num_tokens = len(rendered), max(len(row.token_ids) for row in rendered)
    token_ids = torch.zeros(num_rows, num_tokens, dtype=torch.int64)
    supervision_mask = torch.zeros(num_rows, num_tokens, dtype=torch.bool)
    audio_mask = torch.zeros(num_rows, num_tokens, dtype=torch.bool)
    for index, row in enumerate(rendered):
        token_ids[index, : len(row.token_ids)] = torch.from_numpy(row.token_ids)
        supervision_mask[index, : len(row.token_ids)] = torch.from_numpy(row.supervision_mask)
        for start, length in row.audio_spans:
            audio_mask[index, start : start + length] = True
    batch = Batch(
        token_ids=token_ids,
        num_tokens=torch.tensor([len(row.token_ids) for row in rendered]),
        supervision_mask=supervision_mask,
        audio_mask=audio_mask,
        num_audio_tokens=tuple(length for row in rendered for _, length in row.audio_spans),
        waveforms=tuple(torch.from_numpy(waveform) for row in waveforms for waveform in row),
        clip_keys=tuple(key for row in clip_keys for key in row),
        tasks=tuple(tasks),
    )
    batch.check()
    return batch
