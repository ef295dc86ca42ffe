"""A folder of recordings that are mixed into clips: noise, or impulse responses of rooms. Each file is tried first."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from voicetextblender.audio.waveform import read_waveform
from voicetextblender.errors import AudioError, DataError, describe, describe_many
from voicetextblender.files import write_atomically
from voicetextblender.units import SAMPLING_RATE

SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")


class Sound(NamedTuple):
    """A recording that was decoded once without fault.

    `num_samples` counts samples at 16 kHz.
    """

    path: str
    num_samples: int

    def read(self) -> np.ndarray:
        """Waveform [samples] of the whole recording."""
        return read_waveform(self.path)

    def read_part(self, num_samples: int, random: np.random.Generator) -> np.ndarray:
        """Waveform of `num_samples` from a random place on; a shorter recording is repeated."""
        start = int(random.integers(0, max(1, self.num_samples - num_samples + 1)))
        duration_s = min(num_samples, self.num_samples) / SAMPLING_RATE
        part = read_waveform(self.path, start_s=start / SAMPLING_RATE, duration_s=duration_s)
        return np.resize(part, num_samples)


def open_sounds(folder: str, where: str, cache_dir: Path) -> tuple[Sound, ...]:
    """The recordings at any depth of a folder, in the order of their names; other files are left aside.

    Every one is decoded whole; files that were found sound are not decoded again until they change.

    Args:
        where: the key of the recipe that names the folder.
        cache_dir: where it is kept which files were sound.

    Raises:
        DataError: no such folder, no recording in it, or recordings that cannot be used (five named, all counted).
    """
    files = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not files:
        found = f"'{folder}' holds no recording" if Path(folder).is_dir() else f"'{folder}' is no folder"
        raise DataError(describe(where, found, f"a folder with {', '.join(SUFFIXES)} files", "Correct the path"))
    states = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    stored = cache_dir / f"sounds-{hashlib.sha256(repr(states).encode()).hexdigest()[:32]}.json"
    if stored.is_file():
        lengths = json.loads(stored.read_bytes())
    else:
        lengths = _decode_all(files, folder, where)
        with write_atomically(stored) as temporary:
            temporary.write_text(json.dumps(lengths))
    return tuple(Sound(str(path), length) for path, length in zip(files, lengths, strict=True))


def _decode_all(files: list[Path], folder: str, where: str) -> list[int]:
    """Samples of each file at 16 kHz."""
    lengths, problems = [], []
    for path in files:
        try:
            waveform = read_waveform(path)
            if not waveform.any():
                raise AudioError(describe(str(path), "is silent", "a sound is needed", "Remove it"))
            lengths.append(len(waveform))
        except AudioError as error:
            problems.append(str(error))
    if problems:
        found = f"{len(problems)} of the {len(files)} recordings in '{folder}' cannot be used"
        told = describe(where, found, "every one is heard in training", "Make them again, or remove them")
        raise DataError(f"{told}\n{describe_many(problems)}")
    return lengths
