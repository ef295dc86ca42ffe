"""Waveforms from files and to files: mono, float32, at one sampling rate, or an error that says why not.

libsndfile reads wav, flac, ogg, opus and mp3; PyAV, an optional extra, reads what is left (webm, m4a, ...).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from voicetextblender.audio.audio_file import END_TOLERANCE_S, AudioFile, decode_with_pyav
from voicetextblender.audio.lengths import HOP_LENGTH, resampled_num_samples
from voicetextblender.audio.storage import StoredAudio
from voicetextblender.errors import AudioError, describe
from voicetextblender.files import write_atomically
from voicetextblender.units import SAMPLING_RATE, samples_to_seconds, seconds_to_samples

BLOCK_SAMPLES = 1 << 22
"""Decoded at once, over all channels: 4 minutes of mono at 16 kHz."""
INT16_SCALE = 32768.0
EXACT_SUBTYPES = frozenset(("PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32"))
"""Samples that are stored as whole numbers, in libsndfile's words: none of them can be NaN or infinite."""

Allocate = Callable[[int], np.ndarray]
"""Gives room for a waveform [samples], float32."""


def new_waveform(num_samples: int) -> np.ndarray:
    """Room for a waveform [samples], float32, whatever stands in it."""
    return np.empty(num_samples, np.float32)


@dataclass(frozen=True)
class AudioInfo:
    """What is known of an audio file without its samples."""

    num_samples: int
    """Per channel, at the file's own sampling rate."""
    sampling_rate: int
    """Hz."""
    num_channels: int
    duration_s: float


def read_audio_info(path: str | Path | StoredAudio, *, where: str | None = None) -> AudioInfo:
    """Length, rate and channels of an audio file, from its header where it has a trustworthy one.

    Raises:
        AudioError: the file is missing, or is no audio.
    """
    clip = AudioFile(path, where)
    file = clip.open()
    try:
        info = soundfile.info(file)
    except soundfile.SoundFileError as error:
        samples, rate = decode_with_pyav(clip, file, error)
        return AudioInfo(len(samples), rate, 1, samples_to_seconds(len(samples), rate))
    clip.check_rate(info.samplerate)
    return AudioInfo(info.frames, info.samplerate, info.channels, samples_to_seconds(info.frames, info.samplerate))


def count_clip_samples(
    path: str | Path | StoredAudio,
    *,
    start_s: float = 0.0,
    duration_s: float | None = None,
    sampling_rate: int = SAMPLING_RATE,
    where: str | None = None,
) -> int:
    """Exactly the number of samples that `read_waveform` gives for the same arguments, without decoding.

    A given duration is enough: the file is then not even opened.

    Raises:
        AudioError: the file is needed and is missing, no audio, or over before `start_s`.
    """
    if duration_s is not None:
        return seconds_to_samples(duration_s, sampling_rate)
    info = read_audio_info(path, where=where)
    start, stop = AudioFile(path, where).segment(start_s, None, info.num_samples, info.sampling_rate)
    return resampled_num_samples(stop - start, info.sampling_rate, sampling_rate)


def read_waveform(
    path: str | Path | StoredAudio,
    *,
    start_s: float = 0.0,
    duration_s: float | None = None,
    sampling_rate: int = SAMPLING_RATE,
    where: str | None = None,
    allocate: Allocate = new_waveform,
) -> np.ndarray:
    """Waveform [samples] of a file or of a segment of it: channels averaged, resampled, float32.

    With `duration_s` the length is exactly that duration at `sampling_rate`; without it, that of the file from
    `start_s` on, resampled (`resampled_num_samples`).

    Args:
        start_s: >= 0, where the segment starts.
        where: the place that names the file, for errors; the path itself when None.
        allocate: where decoding writes to; the waveform lies there unless it had to be resampled, averaged or fitted.

    Raises:
        AudioError: the file is missing, no audio, empty or broken; a sample is not finite; the segment lies outside
            the file or is shorter than one audio frame.
    """
    clip = AudioFile(path, where)
    samples, source_rate, is_exact = _read_segment(clip, start_s, duration_s, allocate)
    if duration_s is None:
        num_samples = resampled_num_samples(len(samples), source_rate, sampling_rate)
    else:
        num_samples = seconds_to_samples(duration_s, sampling_rate)
    if source_rate != sampling_rate and samples.size:
        samples = np.asarray(soxr.resample(samples, source_rate, sampling_rate), dtype=np.float32)
    waveform = fit_length(samples, num_samples)
    shortest = HOP_LENGTH * sampling_rate // SAMPLING_RATE
    check_waveform(waveform, clip.place, subject=clip.subject, min_samples=shortest, is_finite=is_exact)
    return waveform


def check_waveform(
    waveform: np.ndarray,
    where: str,
    *,
    subject: str = "the audio",
    min_samples: int = HOP_LENGTH,
    is_finite: bool = False,
) -> None:
    """Refuse a waveform that no encoder can take.

    Args:
        is_finite: it is known that all samples are; then none is looked at.

    Raises:
        AudioError: not one-dimensional, empty, shorter than one audio frame, or with NaN or infinite samples.
    """
    if waveform.ndim != 1:
        found = f"{subject} has the shape {tuple(waveform.shape)}"
        raise AudioError(describe(where, found, "a waveform is mono: one axis, samples", "Average its channels first"))
    if waveform.size == 0:
        found = f"{subject} is empty (0 samples)"
        raise AudioError(describe(where, found, f"at least {min_samples} samples are needed", "Remove it"))
    if waveform.size < min_samples:
        found = f"{subject} is {waveform.size} samples long"
        expected = f"one audio frame takes {min_samples} samples (10 ms)"
        raise AudioError(describe(where, found, expected, "Remove it, or give a longer segment"))
    if is_finite:
        return
    with np.errstate(invalid="ignore", over="ignore"):
        total = waveform.sum()  # finite only if all are, and found much sooner than by looking at each
    num_bad = 0 if np.isfinite(total) else int(waveform.size - np.isfinite(waveform).sum())
    if num_bad:
        found = f"{subject} has {num_bad} NaN or infinite samples of {waveform.size}"
        raise AudioError(describe(where, found, "samples are finite, between -1 and 1", "Make the file again"))


def check_clip_length(num_samples: int, max_clip_s: float, where: str, *, subject: str = "the audio") -> None:
    """Refuse a clip whose length, in samples at 16 kHz, the encoder cannot take.

    Raises:
        AudioError: shorter than one audio frame, or longer than `max_clip_s`.
    """
    if num_samples < HOP_LENGTH:
        found = f"{subject} is {num_samples} samples long"
        expected = f"one audio frame takes {HOP_LENGTH} samples (10 ms)"
        raise AudioError(describe(where, found, expected, "Remove it, or give a longer segment"))
    if num_samples > seconds_to_samples(max_clip_s):
        found = f"{subject} is {samples_to_seconds(num_samples):.1f} s"
        expected = f"a clip is at most {max_clip_s:.1f} s"
        raise AudioError(describe(where, found, expected, "Split it, or raise max_clip_s if the encoder allows"))


def write_waveform(path: str | Path, waveform: np.ndarray, sampling_rate: int = SAMPLING_RATE) -> None:
    """Write `waveform` [samples] as 16-bit flac or wav, by the suffix; the file appears whole or not at all.

    Samples beyond -1 and 1 are clipped.

    Raises:
        AudioError: another suffix, or an unusable waveform.
    """
    path = Path(path)
    if path.suffix.lower() not in (".flac", ".wav"):
        found = f"the suffix is '{path.suffix}'"
        raise AudioError(describe(str(path), found, "waveforms are written as .flac or .wav", "Rename the file"))
    check_waveform(waveform, str(path), min_samples=1)
    samples = np.clip(np.rint(waveform.astype(np.float64) * INT16_SCALE), -INT16_SCALE, INT16_SCALE - 1)
    with write_atomically(path) as temporary:
        soundfile.write(str(temporary), samples.astype(np.int16), sampling_rate, subtype="PCM_16")


def _read_segment(
    clip: AudioFile, start_s: float, duration_s: float | None, allocate: Allocate
) -> tuple[np.ndarray, int, bool]:
    """Mono samples of the segment at the file's own rate, that rate, and whether the file holds whole numbers."""
    opened = clip.open()
    try:
        with soundfile.SoundFile(opened) as file:
            rate = file.samplerate
            clip.check_rate(rate)
            start, stop = clip.segment(start_s, duration_s, file.frames, rate)
            if start:
                file.seek(start)
            samples = _read_mono(file, stop - start, allocate)
            is_exact = file.subtype in EXACT_SUBTYPES
    except soundfile.SoundFileError as error:
        decoded, rate = decode_with_pyav(clip, opened, error)
        start, stop = clip.segment(start_s, duration_s, len(decoded), rate)
        samples, is_exact = decoded[start:stop], False
    if stop - start - len(samples) > seconds_to_samples(END_TOLERANCE_S, rate):
        found = f"breaks off after {samples_to_seconds(start + len(samples), rate):.3f} s"
        expected = f"its header promises at least {samples_to_seconds(stop, rate):.3f} s"
        clip.refuse(found, expected, "Make or fetch the file again")
    return samples, rate, is_exact


def _read_mono(file: soundfile.SoundFile, num_frames: int, allocate: Allocate) -> np.ndarray:
    """The next frames, channels averaged; in blocks, since a broken header may promise more than memory holds."""
    if file.channels == 1 and num_frames <= BLOCK_SAMPLES:
        return file.read(out=allocate(num_frames))
    block = max(1, BLOCK_SAMPLES // file.channels)
    blocks = []
    while num_frames > 0:
        frames = file.read(min(num_frames, block), dtype="float32", always_2d=True)
        blocks.append(frames[:, 0] if file.channels == 1 else frames.mean(axis=1, dtype=np.float32))
        num_frames = num_frames - len(frames) if len(frames) == block else 0
    return blocks[0] if len(blocks) == 1 else np.concatenate([np.zeros(0, np.float32), *blocks])


def fit_length(samples: np.ndarray, num_samples: int) -> np.ndarray:
    """Crop or pad with silence: resampling and rounded durations leave a few samples too many or too few."""
    if len(samples) == num_samples:
        return samples
    fitted = np.zeros(num_samples, dtype=np.float32)
    fitted[: len(samples)] = samples[:num_samples]
    return fitted
