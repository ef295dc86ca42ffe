"""The one dataclass on which data and model agree: what a microbatch is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from voicetextblender.chat.render import Rendered

PADDING = -1
"""Stands in `conversation_ids` where no conversation does."""


@dataclass(frozen=True)
class Batch:
    """Rendered conversations of one microbatch, packed into rows, with the clips that stand in them.

    A row holds one conversation after the other and is padded on the right. Conversations, clips and tasks are numbered
    in row-major order.

    Invariants (checked by `check`): padding is known by `conversation_ids` alone; no position is both audio and
    supervised; the first token of a conversation is never supervised (nothing predicts it).
    """

    token_ids: Int[Tensor, "rows tokens"]
    position_ids: Int[Tensor, "rows tokens"]
    """Counted from 0 in every conversation; padding carries on the conversation before it, which does not see it."""
    conversation_ids: Int[Tensor, "rows tokens"]
    """Number of the conversation that each token belongs to, or `PADDING`."""
    supervision_mask: Bool[Tensor, "rows tokens"]
    audio_mask: Bool[Tensor, "rows tokens"]
    num_audio_tokens: tuple[int, ...]
    """One per clip; their sum is the number of true values in `audio_mask`."""
    waveforms: tuple[Float[Tensor, " _samples"], ...]
    clip_keys: tuple[int, ...]
    """One per clip: all randomness of that clip (augmentation) follows from it."""
    tasks: tuple[str, ...]
    """One per conversation."""

    @property
    def num_tokens(self) -> int:
        """Tokens in this microbatch, without padding."""
        return int((self.conversation_ids != PADDING).sum())

    @property
    def num_supervised(self) -> int:
        """Supervised tokens in this microbatch."""
        return int(self.supervision_mask.sum())

    @property
    def num_samples(self) -> int:
        """Audio samples in this microbatch."""
        return sum(len(waveform) for waveform in self.waveforms)

    @property
    def holds_audio(self) -> Bool[Tensor, "rows tokens"]:
        """Which tokens belong to a conversation with at least one clip."""
        return torch.isin(self.conversation_ids, self.conversation_ids[self.audio_mask])

    def split_by_conversation(self, losses: Float[Tensor, " supervised"]) -> tuple[Tensor, ...]:
        """Values of the supervised tokens, in row-major order, in one piece per conversation."""
        owners = self.conversation_ids[self.supervision_mask]
        return losses.split(owners.bincount(minlength=len(self.tasks)).tolist())

    def check(self) -> None:
        """Assert the invariants; they can only break by a mistake of ours."""
        is_valid, is_first = self.conversation_ids != PADDING, self.position_ids == 0
        assert not (is_valid[:, 1:] & ~is_valid[:, :-1]).any()
        assert is_first[:, 0].all() and (self.position_ids.diff(dim=1)[~is_first[:, 1:]] == 1).all()
        assert torch.equal(self.conversation_ids[is_first], torch.arange(len(self.tasks)))
        assert torch.equal(is_first.flatten().cumsum(0)[is_valid.flatten()] - 1, self.conversation_ids[is_valid])
        assert not ((self.supervision_mask | self.audio_mask) & ~is_valid).any()
        assert not (self.supervision_mask & (self.audio_mask | is_first)).any()
        assert int(self.audio_mask.sum()) == sum(self.num_audio_tokens)
        assert len(self.waveforms) == len(self.clip_keys) == len(self.num_audio_tokens)

    def to(self, device: torch.device) -> Batch:
        """The same microbatch with every tensor on `device`; a GPU copies while the program goes on."""

        def move(tensor: Tensor) -> Tensor:
            pinned = tensor.pin_memory() if device.type == "cuda" and not tensor.is_cuda else tensor
            return pinned.to(device, non_blocking=True)

        return replace(
            self,
            token_ids=move(self.token_ids),
            position_ids=move(self.position_ids),
            conversation_ids=move(self.conversation_ids),
            supervision_mask=move(self.supervision_mask),
            audio_mask=move(self.audio_mask),
            waveforms=tuple(map(move, self.waveforms)),
        )


def empty_batch() -> Batch:
    """A microbatch without conversations, for a rank that must take part with nothing."""
    nowhere = torch.zeros((1, 2), dtype=torch.bool)
    return Batch(
        token_ids=torch.zeros((1, 2), dtype=torch.int64),
        position_ids=torch.arange(2)[None],
        conversation_ids=torch.full((1, 2), PADDING),
        supervision_mask=nowhere,
        audio_mask=nowhere,
        num_audio_tokens=(),
        waveforms=(),
        clip_keys=(),
        tasks=(),
    )


def collate(
    rendered: Sequence[Rendered],
    waveforms: Sequence[Sequence[np.ndarray]],
    clip_keys: Sequence[Sequence[int]],
    tasks: Sequence[str],
    row_sizes: Sequence[int],
) -> Batch:
    """Put rendered conversations into rows, padded to the longest.

    Args:
        waveforms: one sequence per conversation, as are `clip_keys`.
        row_sizes: conversations in each row.
    """
    assert len(rendered) == len(waveforms) == len(clip_keys) == len(tasks) == sum(row_sizes)
    places = _place([len(conversation.token_ids) for conversation in rendered], row_sizes)
    shape = (len(row_sizes), max(tokens.stop for _, tokens in places))
    token_ids = np.zeros(shape, np.int64)
    position_ids = np.zeros(shape, np.int64)
    conversation_ids = np.full(shape, PADDING)
    supervision_mask = np.zeros(shape, np.bool_)
    audio_mask = np.zeros(shape, np.bool_)
    for number, (conversation, (row, tokens)) in enumerate(zip(rendered, places, strict=True)):
        token_ids[row, tokens] = conversation.token_ids
        position_ids[row, tokens.start :] = np.arange(shape[1] - tokens.start)
        conversation_ids[row, tokens] = number
        supervision_mask[row, tokens] = conversation.supervision_mask
        for start, length in conversation.audio_spans:
            audio_mask[row, tokens.start + start : tokens.start + start + length] = True
    batch = Batch(
        token_ids=torch.from_numpy(token_ids),
        position_ids=torch.from_numpy(position_ids),
        conversation_ids=torch.from_numpy(conversation_ids),
        supervision_mask=torch.from_numpy(supervision_mask),
        audio_mask=torch.from_numpy(audio_mask),
        num_audio_tokens=tuple(length for conversation in rendered for _, length in conversation.audio_spans),
        waveforms=tuple(torch.from_numpy(waveform) for clips in waveforms for waveform in clips),
        clip_keys=tuple(key for keys in clip_keys for key in keys),
        tasks=tuple(tasks),
    )
    batch.check()
    return batch


def _place(lengths: Sequence[int], row_sizes: Sequence[int]) -> list[tuple[int, slice]]:
    """Row and tokens of each conversation: side by side from the left."""
    places: list[tuple[int, slice]] = []
    for row, size in enumerate(row_sizes):
        start = 0
        for length in lengths[len(places) : len(places) + size]:
            places.append((row, slice(start, start + length)))
            start += length
    return places
