"""Microbatches that take the most memory of all that a plan allows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from voicetextblender.audio.lengths import TokenCount
from voicetextblender.batch import Batch, collate
from voicetextblender.chat.render import Rendered
from voicetextblender.units import samples_to_seconds, seconds_to_samples


class PlanLimits(Protocol):
    """What `data.plan.PlanConfig` says of sizes."""

    @property
    def conversations_per_step(self) -> int: ...

    @property
    def max_tokens_per_microbatch(self) -> int: ...

    @property
    def pack(self) -> bool: ...

    @property
    def max_conversation_tokens(self) -> int: ...

    @property
    def max_clip_s(self) -> float: ...


TEXT_TOKENS = 4
"""Tokens beside the clip in a conversation that is nearly all audio; the last is supervised."""


def worst_batches(config: PlanLimits, count: TokenCount) -> dict[str, Batch]:
    """A full microbatch of nearly all audio, in the longest clips, and one of all text, nearly all of it supervised.

    Rows are as wide as the plan makes them: one of the whole budget where it packs.

    Args:
        count: from samples to audio placeholder tokens.
    """
    return {"audio": _fill(config, _speech(config, count)), "text": _fill(config, _text(config))}


def describe_batch(batch: Batch) -> str:
    """Rows, tokens and audio, for people."""
    rows, tokens = batch.token_ids.shape
    audio = f", {samples_to_seconds(batch.num_samples):,.0f} s of audio" if batch.waveforms else ""
    return f"{rows} x {tokens:,} tokens{audio}"


def longest_clip(config: PlanLimits, count: TokenCount) -> int:
    """Samples of the longest clip that a conversation may have and that fits beside a little text."""
    room = config.max_conversation_tokens - TEXT_TOKENS
    low, high = 0, seconds_to_samples(config.max_clip_s)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if count(middle) <= room else (low, middle - 1)
    return low


def _fill(config: PlanLimits, conversation: tuple[Rendered, list[np.ndarray]]) -> Batch:
    rendered, clips = conversation
    length = len(rendered.token_ids)
    per_row = config.max_tokens_per_microbatch // length if config.pack else 1
    num_rows = config.max_tokens_per_microbatch // (per_row * length)
    number = per_row * num_rows
    keys = [[index] * len(clips) for index in range(number)]
    return collate([rendered] * number, [clips] * number, keys, ["worst"] * number, [per_row] * num_rows)


def _speech(config: PlanLimits, count: TokenCount) -> tuple[Rendered, list[np.ndarray]]:
    num_samples = longest_clip(config, count)
    num_audio_tokens = int(count(num_samples))
    mask = np.zeros(num_audio_tokens + TEXT_TOKENS, bool)
    mask[-1] = True
    noise = np.random.default_rng(0).normal(0, 0.1, num_samples).astype(np.float32)
    return Rendered(np.zeros(len(mask), np.int64), mask, ((1, num_audio_tokens),)), [noise]


def _text(config: PlanLimits) -> tuple[Rendered, list[np.ndarray]]:
    mask = np.ones(config.max_conversation_tokens, bool)
    mask[0] = False
    return Rendered(np.zeros(len(mask), np.int64), mask, ()), []


def sizes(config: PlanLimits) -> Iterator[int]:
    """Budgets from the smallest that the plan allows, each twice the one before, to what the longest step fills."""
    size, most = config.max_conversation_tokens, config.conversations_per_step * config.max_conversation_tokens
    while size < most:
        yield size
        size *= 2
    yield most
