"""How fast the clips of a draw are heard, and so how many tokens it takes: known to the plan without opening a clip."""

from __future__ import annotations

from collections.abc import Sequence

from voicetextblender.audio.distort import SpeedConfig, draw_speed, num_samples_at_speed
from voicetextblender.audio.lengths import HOP_LENGTH
from voicetextblender.data.index import SourceIndex
from voicetextblender.data.measure import Geometry
from voicetextblender.files import derive_seed
from voicetextblender.units import seconds_to_samples

UNCHANGED = 100
"""Percent."""


class Speeds:
    """A speed for every draw, by (seed, epoch, row); all clips of a row have the same.

    Args:
        configs: one for each of `indexes`; None for a source whose clips stay as they are.
    """

    def __init__(
        self, indexes: Sequence[SourceIndex], configs: Sequence[SpeedConfig | None], geometry: Geometry, seed: int
    ) -> None:
        assert len(indexes) == len(configs)
        self.indexes = tuple(indexes)
        self.configs = tuple(configs)
        self.geometry = geometry
        self.seed = seed

    def percent(self, source: int, epoch: int, row: int) -> int:
        """The speed of a draw in percent: 100 where it has no clip, or where a lower one would go beyond a limit."""
        config, index = self.configs[source], self.indexes[source]
        if config is None or not index.num_clips[row]:
            return UNCHANGED
        percent = draw_speed(config, derive_seed(self.seed, "speed", index.name, epoch, row))
        longest = num_samples_at_speed(int(index.longest_clip[row]), percent)
        num_tokens, _ = self._length(source, row, percent)
        is_beyond = longest > seconds_to_samples(index.limits.max_clip_s)
        return UNCHANGED if is_beyond or num_tokens > index.limits.max_conversation_tokens else percent

    def length(self, source: int, epoch: int, row: int) -> tuple[int, int]:
        """Tokens of a draw, and how many of them are audio: exact with one clip, never too few with several.

        Of several only the sum is known: each counts as 10 ms longer and as one token more than its share.
        """
        return self._length(source, row, self.percent(source, epoch, row))

    def _length(self, source: int, row: int, percent: int) -> tuple[int, int]:
        index = self.indexes[source]
        num_tokens, num_audio_tokens = int(index.num_tokens[row]), int(index.num_audio_tokens[row])
        if percent == UNCHANGED:
            return num_tokens, num_audio_tokens
        num_clips, num_samples = int(index.num_clips[row]), int(index.num_samples[row])
        if num_clips == 1:
            changed = self.geometry.num_audio_tokens(num_samples_at_speed(num_samples, percent))
        else:
            most = num_samples_at_speed(num_samples, percent) + num_clips * HOP_LENGTH
            changed = self.geometry.num_audio_tokens(most) + num_clips - 1
        return num_tokens - num_audio_tokens + changed, changed
