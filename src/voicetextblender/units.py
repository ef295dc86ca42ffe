"""Quantities with a unit, and the one place where seconds become samples."""

from __future__ import annotations

import math

SAMPLING_RATE = 16_000
"""Hz of every waveform inside the package."""


def seconds_to_samples(seconds: float, sampling_rate: int = SAMPLING_RATE) -> int:
    """Number of samples in `seconds`, rounded half up."""
    return math.floor(seconds * sampling_rate + 0.5)


def samples_to_seconds(num_samples: int, sampling_rate: int = SAMPLING_RATE) -> float:
    """Duration in seconds of `num_samples`."""
    return num_samples / sampling_rate
