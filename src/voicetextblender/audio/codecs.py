"""Codecs: what is left of a waveform that was encoded and decoded again, in memory, by libsndfile."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Literal

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from voicetextblender.audio.waveform import fit_length
from voicetextblender.errors import DataError, describe
from voicetextblender.units import SAMPLING_RATE

Waveform = NDArray[np.float32]

Codec = Literal["mulaw", "alaw", "gsm", "opus", "vorbis", "mp3"]
CODECS: dict[Codec, tuple[str, str, int]] = {
    "mulaw": ("WAV", "ULAW", 8_000),
    "alaw": ("WAV", "ALAW", 8_000),
    "gsm": ("WAV", "GSM610", 8_000),
    "opus": ("OGG", "OPUS", SAMPLING_RATE),
    "vorbis": ("OGG", "VORBIS", SAMPLING_RATE),
    "mp3": ("MP3", "MPEG_LAYER_III", SAMPLING_RATE),
}
"""What libsndfile calls container and encoding, and the sampling rate in Hz."""
COMPRESSED = ("opus", "vorbis", "mp3")
"""Codecs that can be asked to compress more."""


def encode_and_decode(waveform: Waveform, codec: Codec, compression: float | None = None) -> Waveform:
    """What is left of a waveform, as long as before and not shifted; samples beyond -1 and 1 are clipped.

    Args:
        compression: 0 to 0.9; libsndfile's own choice when None.
    """
    container, encoding, rate = CODECS[codec]
    file = io.BytesIO()
    samples = np.clip(_resample(waveform, SAMPLING_RATE, rate), -1.0, 1.0)
    soundfile.write(file, samples, rate, format=container, subtype=encoding, compression_level=compression)
    file.seek(0)
    decoded, decoded_rate = soundfile.read(file, dtype="float32")
    return fit_length(_resample(decoded, decoded_rate, SAMPLING_RATE), len(waveform))


def check_codecs(codecs: Sequence[Codec], where: str) -> None:
    """Refuse codecs that the installed libsndfile does not write.

    Args:
        where: the key of the recipe that names them.

    Raises:
        DataError: with those that are missing.
    """
    missing = [codec for codec in codecs if not soundfile.check_format(*CODECS[codec][:2])]
    if missing:
        found = f"{', '.join(missing)} cannot be written by libsndfile {soundfile.__libsndfile_version__}"
        raise DataError(describe(where, found, "codecs that it writes", "Leave them out, or install a newer soundfile"))


def _resample(waveform: Waveform, rate: int, new_rate: int) -> Waveform:
    return waveform if rate == new_rate else np.asarray(soxr.resample(waveform, rate, new_rate), np.float32)
