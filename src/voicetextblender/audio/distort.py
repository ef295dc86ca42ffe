"""Waveform augmentation: clips of training as they might sound elsewhere, by a key, each kind with its own probability.

The order is that of the world: the speaker (speed), the room, the noise around, the microphone (gain), the line (band,
codec). Only speed changes the length of a clip; as lengths are planned, `data/speed.py` chooses it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Self

import numpy as np
import soxr
from numpy.typing import NDArray
from pydantic import Field, model_validator

from voicetextblender.audio.codecs import COMPRESSED, Codec, Waveform, check_codecs, encode_and_decode
from voicetextblender.audio.lengths import HOP_LENGTH, resampled_num_samples
from voicetextblender.audio.sounds import Sound, open_sounds
from voicetextblender.audio.waveform import fit_length
from voicetextblender.config import StrictConfig
from voicetextblender.files import derive_seed
from voicetextblender.units import SAMPLING_RATE

TELEPHONE_HZ = (300.0, 3400.0)
"""Source: ITU-T G.712, the channel of a telephone."""
EDGE_HZ = 100.0
"""From full to nothing at the edge of a band."""

Probability = Annotated[float, Field(ge=0, le=1)]


class _Distortion(StrictConfig):
    """Checks that every range is one."""

    @model_validator(mode="after")
    def _check_ranges(self) -> Self:
        for name, value in self:
            if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], float) and value[0] > value[1]:
                raise ValueError(f"it should have {name} with the lower end first, not {list(value)}")
        return self


class SpeedConfig(_Distortion):
    """Faster or slower, the pitch with it; all clips of a row alike.

    Args:
        probability: of a row.
        factors: lowest and highest speed, drawn in steps of 0.01; a row that a lower speed would take beyond a limit
            (`max_conversation_tokens`, `max_clip_s`) keeps its own.

    Source: Ko et al., Audio Augmentation for Speech Recognition, Interspeech 2015.
    """

    probability: Probability = 1.0
    factors: tuple[Annotated[float, Field(ge=0.5)], Annotated[float, Field(le=2.0)]] = (0.9, 1.1)


class RoomConfig(_Distortion):
    """Heard in a room: convolved with its impulse response, from the direct sound on, as loud as before.

    Args:
        folder: recordings of impulse responses.
        probability: of a clip.
    """

    folder: str
    probability: Probability = 0.3


class NoiseConfig(_Distortion):
    """A noise beside the speech.

    Args:
        folder: recordings of noise.
        probability: of a clip.
        snr_db: least and greatest ratio of the power of the clip to that of the noise, in dB.
    """

    folder: str
    probability: Probability = 0.5
    snr_db: tuple[float, float] = (5.0, 25.0)


class GainConfig(_Distortion):
    """Louder or softer.

    Args:
        probability: of a clip.
        gain_db: least and greatest, in dB.
    """

    probability: Probability = 0.5
    gain_db: tuple[float, float] = (-12.0, 6.0)


class BandConfig(_Distortion):
    """A narrower band: that of a telephone (300 to 3,400 Hz), or all below a random frequency.

    Args:
        probability: of a clip.
        telephone_share: of the clips chosen, those that get the band of a telephone.
        cutoff_hz: lowest and highest frequency above which nothing is left, for the others.
    """

    probability: Probability = 0.2
    telephone_share: Probability = 0.5
    cutoff_hz: tuple[Annotated[float, Field(ge=500)], Annotated[float, Field(le=8000)]] = (2000.0, 7000.0)


class CodecConfig(_Distortion):
    """Encoded and decoded again.

    Args:
        probability: of a clip.
        codecs: each as likely as the others. `mulaw`, `alaw` and `gsm` are those of telephones, at 8 kHz.
        compression: least and greatest, from 0 (best) to 0.9, of `opus`, `vorbis` and `mp3`.
    """

    probability: Probability = 0.2
    codecs: tuple[Codec, ...] = Field(("mulaw", "gsm", "opus", "mp3"), min_length=1)
    compression: tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(le=0.9)]] = (0.3, 0.9)


class AugmentConfig(StrictConfig):
    """How the waveforms of training clips are changed; a section that is null changes nothing.

    Args:
        speed: faster or slower.
        room: heard in a room.
        noise: a noise beside the speech.
        gain: louder or softer.
        band: a narrower band.
        codec: encoded and decoded again.
    """

    speed: SpeedConfig | None = None
    room: RoomConfig | None = None
    noise: NoiseConfig | None = None
    gain: GainConfig | None = None
    band: BandConfig | None = None
    codec: CodecConfig | None = None


Distortion = Callable[[Waveform, np.random.Generator], Waveform]


class Distorter:
    """All of an `AugmentConfig` but speed.

    Args:
        where: the key of the recipe that holds `config`, for errors.
        cache_dir: where it is kept which recordings are sound (`open_sounds`).

    Raises:
        DataError: folders that cannot be used, or a codec that the installed libsndfile does not write.
    """

    def __init__(self, config: AugmentConfig, where: str, cache_dir: Path) -> None:
        self._steps: list[tuple[str, float, Distortion]] = []
        if config.room:
            rooms = open_sounds(config.room.folder, f"{where}.room.folder", cache_dir)
            self._add("room", config.room.probability, _Room(rooms))
        if config.noise:
            noises = open_sounds(config.noise.folder, f"{where}.noise.folder", cache_dir)
            self._add("noise", config.noise.probability, _Noise(noises, config.noise.snr_db))
        if config.gain:
            self._add("gain", config.gain.probability, _Gain(config.gain.gain_db))
        if config.band:
            self._add("band", config.band.probability, _Band(config.band))
        if config.codec:
            check_codecs(config.codec.codecs, f"{where}.codec.codecs")
            self._add("codec", config.codec.probability, _Codec(config.codec))

    def _add(self, name: str, probability: float, distortion: Distortion) -> None:
        self._steps.append((name, probability, distortion))

    def __call__(self, waveform: Waveform, key: int) -> Waveform:
        """The waveform changed, as long as before; which way follows from the key alone.

        What one section does is the same whatever the others are.
        """
        for name, probability, distort in self._steps:
            random = np.random.default_rng(derive_seed(key, name))
            if random.random() < probability:
                waveform = distort(waveform, random)
        return waveform


def draw_speed(config: SpeedConfig, key: int) -> int:
    """A speed in percent; 100 changes nothing."""
    slowest, fastest = (round(100 * factor) for factor in config.factors)
    choice, chance = divmod(key, 1 << 31)  # a random number generator would take ten times as long
    return slowest + choice % (fastest - slowest + 1) if chance < config.probability * (1 << 31) else 100


def num_samples_at_speed(num_samples: int, percent: int) -> int:
    """Length of a clip at another speed; one that would become shorter than an audio frame keeps its own."""
    changed = resampled_num_samples(num_samples, percent, 100)
    return changed if changed >= HOP_LENGTH else num_samples


def change_speed(waveform: Waveform, percent: int) -> Waveform:
    """The waveform at another speed, of the length `num_samples_at_speed`."""
    num_samples = num_samples_at_speed(len(waveform), percent)
    if num_samples == len(waveform):
        return waveform
    return fit_length(soxr.resample(waveform, percent, 100), num_samples)


class _Room:
    def __init__(self, responses: tuple[Sound, ...]) -> None:
        self.responses = responses

    def __call__(self, waveform: Waveform, random: np.random.Generator) -> Waveform:
        response = self.responses[random.integers(len(self.responses))].read()
        response = response[int(np.abs(response).argmax()) :]
        size = _fast_size(len(waveform) + len(response))
        heard = np.fft.irfft(np.fft.rfft(waveform, size) * np.fft.rfft(response, size), size)[: len(waveform)]
        power = _power(heard)
        return (heard * np.sqrt(_power(waveform) / power)).astype(np.float32) if power else waveform


class _Noise:
    def __init__(self, noises: tuple[Sound, ...], snr_db: tuple[float, float]) -> None:
        self.noises = noises
        self.snr_db = snr_db

    def __call__(self, waveform: Waveform, random: np.random.Generator) -> Waveform:
        noise = self.noises[random.integers(len(self.noises))].read_part(len(waveform), random)
        ratio = 10 ** (random.uniform(*self.snr_db) / 10)
        power = _power(noise)
        if not power:  # a silent stretch of a recording that is not silent
            return waveform
        return (waveform + noise * np.sqrt(_power(waveform) / (power * ratio))).astype(np.float32)


class _Gain:
    def __init__(self, gain_db: tuple[float, float]) -> None:
        self.gain_db = gain_db

    def __call__(self, waveform: Waveform, random: np.random.Generator) -> Waveform:
        return waveform * np.float32(10 ** (random.uniform(*self.gain_db) / 20))


class _Band:
    def __init__(self, config: BandConfig) -> None:
        self.config = config

    def __call__(self, waveform: Waveform, random: np.random.Generator) -> Waveform:
        is_telephone = random.random() < self.config.telephone_share
        low, high = TELEPHONE_HZ if is_telephone else (-EDGE_HZ, random.uniform(*self.config.cutoff_hz))
        size = _fast_size(len(waveform) + round(SAMPLING_RATE / EDGE_HZ))
        frequencies = np.fft.rfftfreq(size, 1 / SAMPLING_RATE)
        kept = np.clip((frequencies - low) / EDGE_HZ, 0, 1) * np.clip((high - frequencies) / EDGE_HZ, 0, 1)
        return np.fft.irfft(np.fft.rfft(waveform, size) * kept, size)[: len(waveform)].astype(np.float32)


class _Codec:
    def __init__(self, config: CodecConfig) -> None:
        self.config = config

    def __call__(self, waveform: Waveform, random: np.random.Generator) -> Waveform:
        codec = self.config.codecs[random.integers(len(self.config.codecs))]
        level = random.uniform(*self.config.compression) if codec in COMPRESSED else None
        return encode_and_decode(waveform, codec, level)


def _power(waveform: NDArray[np.floating]) -> float:
    return float(np.mean(np.square(waveform, dtype=np.float64)))


def _fast_size(least: int) -> int:
    """A size at or above `least` whose Fourier transform is fast: a power of two, or 9/8, 5/4 or 3/2 of one."""
    power = 1 << max(3, least.bit_length() - 1)
    return next(size for eighths in (8, 9, 10, 12, 16) if (size := power * eighths // 8) >= least)
