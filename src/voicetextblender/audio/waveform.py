"""Waveforms from files and to files: mono, float32, at one sampling rate, or an error that says why not.

libsndfile reads wav, flac, ogg, opus and mp3; PyAV, an optional extra, reads what is left (webm, m4a, ...).
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import numpy as np
import soundfile
import soxr

from voicetextblender.audio.lengths import HOP_LENGTH, resampled_num_samples
from voicetextblender.audio.storage import StoredAudio
from voicetextblender.errors import AudioError, describe
from voicetextblender.files import write_atomically
from voicetextblender.units import SAMPLING_RATE, samples_to_seconds, seconds_to_samples

END_TOLERANCE_S = 0.01
"""How far a segment may reach past the end of its file: manifests round their durations, often to 10 ms."""
PYAV_TIMEOUT_S = 20.0
"""How long PyAV may wait for a file to open or a packet to arrive: a broken container can hold it for ever."""
LEAST_RATE = 1_000
"""Hz; what has less holds no speech."""
BLOCK_SAMPLES = 1 << 22
"""Decoded at once, over all channels: 4 minutes of mono at 16 kHz."""
INT16_SCALE = 32768.0


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
    clip = _Clip(path, where)
    file = clip.open()
    try:
        info = soundfile.info(file)
    except soundfile.SoundFileError as error:
        samples, rate = _decode_with_pyav(clip, file, error)
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
    start, stop = _Clip(path, where).segment(start_s, None, info.num_samples, info.sampling_rate)
    return resampled_num_samples(stop - start, info.sampling_rate, sampling_rate)


def read_waveform(
    path: str | Path | StoredAudio,
    *,
    start_s: float = 0.0,
    duration_s: float | None = None,
    sampling_rate: int = SAMPLING_RATE,
    where: str | None = None,
) -> np.ndarray:
    """Waveform [samples] of a file or of a segment of it: channels averaged, resampled, float32.

    With `duration_s` the length is exactly that duration at `sampling_rate`; without it, that of the file from
    `start_s` on, resampled (`resampled_num_samples`).

    Args:
        start_s: >= 0, where the segment starts.
        where: the place that names the file, for errors; the path itself when None.

    Raises:
        AudioError: the file is missing, no audio, empty or broken; a sample is not finite; the segment lies outside
            the file or is shorter than one audio frame.
    """
    clip = _Clip(path, where)
    samples, source_rate = _read_segment(clip, start_s, duration_s)
    if duration_s is None:
        num_samples = resampled_num_samples(len(samples), source_rate, sampling_rate)
    else:
        num_samples = seconds_to_samples(duration_s, sampling_rate)
    if source_rate != sampling_rate and samples.size:
        samples = np.asarray(soxr.resample(samples, source_rate, sampling_rate), dtype=np.float32)
    waveform = fit_length(samples, num_samples)
    check_waveform(waveform, clip.place, subject=clip.subject, min_samples=_frame_samples(sampling_rate))
    return waveform


def check_waveform(
    waveform: np.ndarray, where: str, *, subject: str = "the audio", min_samples: int = HOP_LENGTH
) -> None:
    """Refuse a waveform that no encoder can take.

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


@dataclass(frozen=True)
class _Clip:
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
            path = Path(self.path)
            if not path.is_file():
                found = "is a folder" if path.is_dir() else "does not exist"
                self.refuse(found, "an audio file is needed", "Correct the path")
            is_empty = path.stat().st_size == 0
        if is_empty:
            self.refuse("is an empty file (0 bytes)", "an audio file is needed", "Make the file again, or remove it")
        return file if isinstance(self.path, StoredAudio) else str(self.path)

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


def _read_segment(clip: _Clip, start_s: float, duration_s: float | None) -> tuple[np.ndarray, int]:
    """Mono samples of the segment at the file's own rate, and that rate."""
    opened = clip.open()
    try:
        with soundfile.SoundFile(opened) as file:
            rate = file.samplerate
            clip.check_rate(rate)
            start, stop = clip.segment(start_s, duration_s, file.frames, rate)
            if start:
                file.seek(start)
            samples = _read_mono(file, stop - start)
    except soundfile.SoundFileError as error:
        decoded, rate = _decode_with_pyav(clip, opened, error)
        start, stop = clip.segment(start_s, duration_s, len(decoded), rate)
        samples = decoded[start:stop]
    if stop - start - len(samples) > seconds_to_samples(END_TOLERANCE_S, rate):
        found = f"breaks off after {samples_to_seconds(start + len(samples), rate):.3f} s"
        expected = f"its header promises at least {samples_to_seconds(stop, rate):.3f} s"
        clip.refuse(found, expected, "Make or fetch the file again")
    return samples, rate


def _read_mono(file: soundfile.SoundFile, num_frames: int) -> np.ndarray:
    """The next frames, channels averaged; in blocks, since a broken header may promise more than memory holds."""
    block = max(1, BLOCK_SAMPLES // file.channels)
    blocks = []
    while num_frames > 0:
        frames = file.read(min(num_frames, block), dtype="float32", always_2d=True)
        blocks.append(frames[:, 0] if file.channels == 1 else frames.mean(axis=1, dtype=np.float32))
        num_frames = num_frames - len(frames) if len(frames) == block else 0
    return blocks[0] if len(blocks) == 1 else np.concatenate([np.zeros(0, np.float32), *blocks])


def _decode_with_pyav(clip: _Clip, file: str | BytesIO, first_error: Exception) -> tuple[np.ndarray, int]:
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


def _import_pyav(clip: _Clip, first_error: Exception) -> ModuleType:
    try:
        return importlib.import_module("av")
    except ImportError:
        reason = str(first_error).rsplit(": ", 1)[-1].rstrip(".")
        clip.refuse(
            f"cannot be read by libsndfile ({reason})",
            "wav, flac, ogg, opus or mp3 is needed",
            "Check the file, or, for webm, m4a and the like, install PyAV: pip install 'voicetextblender[av]'",
        )


def fit_length(samples: np.ndarray, num_samples: int) -> np.ndarray:
    """Crop or pad with silence: resampling and rounded durations leave a few samples too many or too few."""
    if len(samples) == num_samples:
        return samples
    fitted = np.zeros(num_samples, dtype=np.float32)
    fitted[: len(samples)] = samples[:num_samples]
    return fitted


def _frame_samples(sampling_rate: int) -> int:
    return HOP_LENGTH * sampling_rate // SAMPLING_RATE
