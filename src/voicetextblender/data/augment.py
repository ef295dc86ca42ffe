"""What augmentation makes of the clips of a draw, source by source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from voicetextblender.audio.distort import AugmentConfig, Distorter, SpeedConfig, change_speed
from voicetextblender.data.index import SourceIndex
from voicetextblender.data.measure import Geometry
from voicetextblender.data.plan import Draw
from voicetextblender.data.speed import Speeds


class Augmenter:
    """Changes clips by keys; a source changes them as the recipe says for all, in its own way, or not at all.

    Args:
        shared: for the sources that have no section of their own.
        seed: key of the speeds.
        cache_dir: where it is kept which recordings of noise and rooms are sound.

    Raises:
        DataError: folders of noise or rooms that cannot be used, or a codec that is not there.
    """

    def __init__(
        self,
        indexes: Sequence[SourceIndex],
        shared: AugmentConfig | None,
        geometry: Geometry,
        seed: int,
        cache_dir: Path,
    ) -> None:
        everywhere = Distorter(shared, "data.augment", cache_dir) if shared else None
        self._distorters: list[Distorter | None] = []
        speeds: list[SpeedConfig | None] = []
        for index in indexes:
            own = index.source.config.augment
            if isinstance(own, AugmentConfig):
                self._distorters.append(Distorter(own, f"data.sources.{index.name}.augment", cache_dir))
            else:
                self._distorters.append(everywhere if own == "shared" else None)
            config = own if isinstance(own, AugmentConfig) else shared if own == "shared" else None
            speeds.append(config.speed if config else None)
        self.speeds = Speeds(indexes, speeds, geometry, seed) if any(speeds) else None

    def __call__(self, draw: Draw, waveforms: Sequence[np.ndarray], keys: Sequence[int]) -> list[np.ndarray]:
        """The clips of a draw as they are heard in training.

        Args:
            keys: one per clip.
        """
        percent = self.speeds.percent(draw.source, draw.epoch, draw.row) if self.speeds else 100
        changed = [change_speed(waveform, percent) for waveform in waveforms]
        distort = self._distorters[draw.source]
        return changed if distort is None else [distort(*pair) for pair in zip(changed, keys, strict=True)]
