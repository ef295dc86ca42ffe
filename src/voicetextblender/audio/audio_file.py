"""An audio file on its way to a decoder: found and not empty, or refused in words; PyAV where libsndfile fails."""

from __future__ import annotations

import importlib
import os
import stat
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import numpy as np

from voicetextblender.audio.storage import StoredAudio
from voicetextblender.errors import AudioError, describe
from voicetextblender.units import samples_to_seconds, seconds_to_samples

END_TOLERANCE_S = 0.01
"""How far a segment may reach past the end of its file: manifests round their durations, often to 10 ms."""
PYAV_TIMEOUT_S = 20.0
"""How long PyAV may wait for a file to open or a packet to arrive: a broken container can hold it for ever."""
LEAST_RATE = 1_000
"""Hz; what has less holds no speech."""


@dataclass(frozen=True)
class AudioFile:
    """A file and how errors speak of it."""

    path: str | Path | StoredAudio
    where: str | None

    @property
    def place(self) -> str:
        return self.where or str(self.path)

    @property
    def subject(self) -> str:
        return f"audio '{self.path}'" if self.where else "the audio"

    def refuse(self, found: str, expected: str, fix: str) -> NoReturn:
        raise AudioError(describe(self.place, f"{self.subject} {found}", expected, fix))

    def open(self) -> str | BytesIO:
        """What decoders take: the path of a plain file, or the encoded file in memory. It is there and not empty."""
        if isinstance(self.path, StoredAudio):
            try:
                file = self.path.open()
            except OSError as error:
                self.refuse(f"cannot be read ({error})", "an audio file is needed", "Correct the path")
            is_empty = not file.getbuffer().nbytes
        else:
            is_empty = not self._status().st_size
        if is_empty:
            self.refuse("is an empty file (0 bytes)", "an audio file is needed", "Make the file again, or remove it")
        return file if isinstance(self.path, StoredAudio) else str(self.path)

    def _status(self) -> os.stat_result:
        """Of a plain file that is there."""
        try:
            status = os.stat(str(self.path))
        except (FileNotFoundError, NotADirectoryError, ValueError):  # the last for a name that no file can have
            self.refuse("does not exist", "an audio file is needed", "Correct the path")
        except OSError as error:
            self.refuse(f"cannot be read ({error.strerror})", "an audio file is needed", "Correct the path")
        if not stat.S_ISREG(status.st_mode):
            found = "is a folder" if stat.S_ISDIR(status.st_mode) else "is no plain file"
            self.refuse(found, "an audio file is needed", "Correct the path")
        return status

    def check_rate(self, rate: int) -> None:
        """Refuse a broken header, whose few samples would become many."""
        if rate < LEAST_RATE:
            self.refuse(f"has {rate} samples a second", f"at least {LEAST_RATE} Hz are needed", "Make the file again")

    def segment(self, start_s: float, duration_s: float | None, num_samples: int, rate: int) -> tuple[int, int]:
        """First sample and the one after the last, at `rate`; the end is that of the file if it is hardly beyond."""
        if num_samples == 0:
            self.refuse("is empty (0 samples)", "at least one audio frame (10 ms) is needed", "Remove it")
        start = seconds_to_samples(start_s, rate)
        stop = num_samples if duration_s is None else start + seconds_to_samples(duration_s, rate)
        tolerance = seconds_to_samples(END_TOLERANCE_S, rate)
        if start < 0 or start >= num_samples or stop < start or stop > num_samples + tolerance:
            until = "the end" if duration_s is None else f"{start_s + duration_s:.3f} s"
            found = (
                f"is {samples_to_seconds(num_samples, rate):.3f} s long and the segment is {start_s:.3f} s to {until}"
            )
            self.refuse(found, "a segment lies inside its file", "Correct start and duration")
        return start, min(stop, num_samples)


def decode_with_pyav(clip: AudioFile, file: str | BytesIO, first_error: Exception) -> tuple[np.ndarray, int]:
    """All samples of a file that libsndfile cannot read, channels averaged, and their rate."""
    av = _import_pyav(clip, first_error)
    if isinstance(file, BytesIO):
        file.seek(0)
    try:
        with av.open(file, timeout=PYAV_TIMEOUT_S) as container:
            stream = next(iter(container.streams.audio), None)
            if stream is None:
                raise ValueError("no audio stream")
            resampler = av.AudioResampler(format="fltp")
            frames = [*container.decode(stream), None]
            chunks = [out.to_ndarray().mean(axis=0) for frame in frames for out in resampler.resample(frame)]
            samples = np.concatenate(chunks).astype(np.float32) if chunks else np.zeros(0, np.float32)
            return samples, int(stream.codec_context.sample_rate)
    except (av.FFmpegError, ValueError) as error:
        clip.refuse(f"cannot be decoded ({error})", "an audio file is needed", "Check the file, or make it again")


def _import_pyav(clip: AudioFile, first_error: Exception) -> ModuleType:
    try:
        return importlib.import_module("av")
    except ImportError:
        reason = str(first_error).rsplit(": ", 1)[-1].rstrip(".")
        clip.refuse(
            f"cannot be read by libsndfile ({reason})",
            "wav, flac, ogg, opus or mp3 is needed",
            "Check the file, or, for webm, m4a and the like, install PyAV: pip install 'voicetextblender[av]'",
        )
