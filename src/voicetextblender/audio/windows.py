"""A length cut into overlapping windows: long audio for encoders that take so much at once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Windows:
    """Windows of `size`, each `overlap` over the one before; of an overlap either window keeps the half on its side.

    So every position is kept once, from a window that sees at least half an overlap around it, and cutting changes no
    length.
    """

    size: int
    overlap: int = 0

    def __post_init__(self) -> None:
        assert 0 <= self.overlap < self.size and self.overlap % 2 == 0, "an even overlap below the size"

    @property
    def step(self) -> int:
        """From the start of one window to that of the next."""
        return self.size - self.overlap

    def count(self, length: int) -> int:
        """Windows that cover `length`."""
        return 1 + max(0, -(-(length - self.size) // self.step))

    def padded(self, length: int) -> int:
        """Where the last of those windows ends."""
        return self.size + (self.count(length) - 1) * self.step

    def kept(self, index: int, length: int) -> slice:
        """What window `index` of those over `length` keeps, in positions of that window."""
        is_last = index == self.count(length) - 1
        stop = length - index * self.step if is_last else self.size - self.overlap // 2
        return slice(self.overlap // 2 if index else 0, stop)

    def scaled(self, factor: int) -> Windows:
        """The same windows over something that is `factor` times as fine."""
        return Windows(self.size * factor, self.overlap * factor)
