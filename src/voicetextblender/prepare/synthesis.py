"""Speech made from text: a protocol for engines, espeak-ng in process, byte-equal synthesis of many clips."""

from __future__ import annotations

import ctypes
import hashlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import soxr

from voicetextblender.audio.waveform import write_waveform
from voicetextblender.errors import AudioError, describe, describe_many
from voicetextblender.files import write_atomically
from voicetextblender.units import SAMPLING_RATE, seconds_to_samples

SHARD_SIZE = 500
"""Utterances spoken by one process. Part of the result: espeak-ng carries hidden state from one text to the next."""

PEAK = 0.7
"""Largest absolute sample of a finished clip."""

STRANGE_VARIANTS = ("whisper", "croak", "klatt", "robo", "demonic")
"""What is in the name of a variant that whispers, creaks or is a machine."""

FORMAT = 1
"""Raised when the same utterance gives other samples than before, so that old shards are made anew."""


@dataclass(frozen=True)
class Utterance:
    """One clip to be spoken.

    Args:
        path: where the clip goes, relative to the output folder; ends in `.flac`.
        voice: a voice of the engine, with an optional variant (`en-us+f3`).
        rate_wpm: speed in words per minute.
        pitch: 0 to 99, 50 is the voice's own.
        snr_db: signal-to-noise ratio of added white noise in dB, or None for clean speech.
        seed: key of the noise.
    """

    path: str
    text: str
    language: str
    voice: str
    rate_wpm: int
    pitch: int
    snr_db: float | None
    seed: int


class SpeechSynthesizer(Protocol):
    """An engine that speaks one text."""

    def synthesize(self, text: str, language: str, voice: str, rate_wpm: int, pitch: int) -> np.ndarray:
        """Mono float32 samples in [-1, 1] at 16 kHz, with whatever silence the engine puts around the speech."""
        ...


class EspeakSynthesizer:
    """espeak-ng inside this process.

    The library keeps hidden state: the same text may differ in a few samples from one call to the next, and only the
    same sequence of calls in a fresh process repeats exactly. Not safe for threads.

    Raises:
        AudioError: the package that brings the library is missing; or a voice or variant does not exist.

    Source: espeak-ng `speak_lib.h` (the numbers of modes, parameters and flags).
    """

    _SYNCHRONOUS_TO_CALLBACK, _UTF8, _POSITION_CHARACTER = 2, 1, 1
    _RATE, _PITCH = 1, 3
    _BUFFER_MS = 1000

    def __init__(self) -> None:
        self._library, data_path = _load_espeak()
        self._variants = {variant.name for variant in (data_path / "voices" / "!v").iterdir()}
        self._chunks: list[bytes] = []
        self._callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)(self._collect)
        self._sampling_rate = int(
            self._library.espeak_Initialize(self._SYNCHRONOUS_TO_CALLBACK, self._BUFFER_MS, str(data_path).encode(), 0)
        )
        # espeak-ng seeds the breath of some voices with the time of day.
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))

    def synthesize(self, text: str, language: str, voice: str, rate_wpm: int, pitch: int) -> np.ndarray:
        self._choose_voice(voice)
        self._library.espeak_SetParameter(self._RATE, rate_wpm, 0)
        self._library.espeak_SetParameter(self._PITCH, pitch, 0)
        # Set at every call: another object of this class in the same process would otherwise receive the samples.
        self._library.espeak_SetSynthCallback(self._callback)
        self._chunks.clear()
        encoded = text.encode() + b"\0"
        self._library.espeak_Synth(
            encoded, ctypes.c_size_t(len(encoded)), 0, self._POSITION_CHARACTER, 0, self._UTF8, None, None
        )
        self._library.espeak_Synchronize()
        samples = np.frombuffer(b"".join(self._chunks), dtype=np.int16).astype(np.float32) / 32768.0
        return np.asarray(soxr.resample(samples, self._sampling_rate, SAMPLING_RATE), dtype=np.float32)

    def _choose_voice(self, voice: str) -> None:
        name, _, variant = voice.partition("+")
        if variant and variant not in self._variants:
            # espeak-ng itself would speak without the variant, silently.
            raise AudioError(_describe_voice(voice, f"espeak-ng has no variant {variant!r}"))
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise AudioError(_describe_voice(voice, f"espeak-ng has no voice {name!r}"))

    def _collect(self, samples: int | None, num_samples: int, events: int | None) -> int:
        if samples and num_samples > 0:
            self._chunks.append(ctypes.string_at(samples, 2 * num_samples))
        return 0


def _describe_voice(voice: str, found: str) -> str:
    return describe(
        f"voice {voice!r}",
        found,
        "a voice is a language of espeak-ng with an optional variant, such as 'en-us+f3'",
        "Choose one of `espeak-ng --voices` and `espeak-ng --voices=variant`",
    )


def _load_espeak() -> tuple[ctypes.CDLL, Path]:
    try:
        import espeakng_loader
    except ImportError as error:
        raise AudioError(
            describe(
                "speech synthesis",
                "the package espeakng-loader is not installed",
                "it brings the espeak-ng library and its voices",
                "Run: pip install 'voicetextblender[mini]'",
            )
        ) from error
    return ctypes.CDLL(espeakng_loader.get_library_path()), Path(espeakng_loader.get_data_path())


def list_variants() -> list[str]:
    """The variants that make other speakers of any voice of espeak-ng, without those that no person sounds like.

    Raises:
        AudioError: the package that brings the library is missing.
    """
    _, data_path = _load_espeak()
    names = sorted(variant.name for variant in (data_path / "voices" / "!v").iterdir())
    return [name for name in names if not any(strange in name.lower() for strange in STRANGE_VARIANTS)]


def trim_silence(waveform: np.ndarray, threshold_db: float = -45.0, margin_s: float = 0.05) -> np.ndarray:
    """The span from the first to the last sample above `threshold_db`, with a margin on each side.

    The threshold is relative to the peak. Empty when no sample is above zero.
    """
    loudness = np.abs(waveform)
    peak = float(loudness.max(initial=0.0))
    if peak == 0.0:
        return waveform[:0]
    loud = np.flatnonzero(loudness >= peak * 10.0 ** (threshold_db / 20.0))
    margin = seconds_to_samples(margin_s)
    return waveform[max(0, int(loud[0]) - margin) : int(loud[-1]) + 1 + margin]


def add_noise(waveform: np.ndarray, snr_db: float, seed: int) -> np.ndarray:
    """`waveform` with white noise at `snr_db`; the noise depends on `seed` and the length alone."""
    noise = np.random.default_rng(seed).standard_normal(len(waveform), dtype=np.float32)
    power = float(np.mean(np.square(waveform), dtype=np.float64))
    return waveform + np.float32(np.sqrt(power * 10.0 ** (-snr_db / 10.0))) * noise


def speak(synthesizer: SpeechSynthesizer, utterance: Utterance) -> np.ndarray:
    """The finished clip of `utterance`: spoken, trimmed, with its noise, at a common peak. Float32 at 16 kHz.

    Raises:
        AudioError: the text makes no sound.
    """
    spoken = synthesizer.synthesize(
        utterance.text, utterance.language, utterance.voice, utterance.rate_wpm, utterance.pitch
    )
    waveform = trim_silence(spoken)
    if len(waveform) == 0:
        raise AudioError(
            describe(
                utterance.path,
                f"the text {utterance.text!r} makes no sound with voice {utterance.voice!r}",
                "a clip needs something to say",
                "Give it words, or drop it",
            )
        )
    if utterance.snr_db is not None:
        waveform = add_noise(waveform, utterance.snr_db, utterance.seed)
    return waveform * np.float32(PEAK / np.abs(waveform).max())


def synthesize_utterances(
    utterances: Sequence[Utterance],
    out_dir: Path,
    num_workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    *,
    shard_size: int = SHARD_SIZE,
    on_failure: Literal["stop", "skip"] = "stop",
) -> dict[str, int]:
    """Speak `utterances` with espeak-ng into FLAC files (16 kHz, mono, 16 bit) under `out_dir`.

    The files depend on `utterances` and `shard_size` alone, not on `num_workers`: each shard is spoken in fixed order
    by a process of its own. A finished shard leaves a marker under `out_dir/.shards` and is not spoken again.

    Args:
        num_workers: processes at a time.
        progress: called with the number of utterances done, and of all.
        on_failure: "skip" leaves utterances that cannot be spoken out of the result instead of raising.

    Returns:
        Number of samples of each clip by its path; every path of `utterances` is there unless it was skipped.

    Raises:
        AudioError: two utterances share a path, or some cannot be spoken (the first five are named, the rest counted).
    """
    _check_paths(utterances)
    shards = [utterances[start : start + shard_size] for start in range(0, len(utterances), shard_size)]
    num_samples: dict[str, int] = {}
    failures: list[str] = []
    with ThreadPoolExecutor(max_workers=max(1, num_workers)) as pool:
        pending = [pool.submit(_finish_shard, shard, out_dir) for shard in shards]
        try:
            for future in as_completed(pending):
                result = future.result()
                num_samples.update(result["num_samples"])
                failures.extend(result["failures"])
                if progress is not None:
                    progress(len(num_samples) + len(failures), len(utterances))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if failures and on_failure == "stop":
        raise AudioError(describe_many(sorted(failures)))
    return {utterance.path: num_samples[utterance.path] for utterance in utterances if utterance.path in num_samples}


def _check_paths(utterances: Sequence[Utterance]) -> None:
    repeated = [path for path, count in Counter(utterance.path for utterance in utterances).items() if count > 1]
    problems = [describe(path, "two utterances go there", "each needs its own path", "Rename one") for path in repeated]
    if problems:
        raise AudioError(describe_many(problems))


def _finish_shard(shard: Sequence[Utterance], out_dir: Path) -> Mapping[str, Any]:
    """The marker of a finished shard: read when it is there and its clips are, otherwise the shard is spoken."""
    rows = [asdict(utterance) for utterance in shard]
    key = hashlib.sha256(json.dumps([FORMAT, rows]).encode()).hexdigest()
    marker = out_dir / ".shards" / f"{key}.json"
    if marker.exists():
        result: dict[str, Any] = json.loads(marker.read_text())
        if all((out_dir / path).exists() for path in result["num_samples"]):
            return result
    result = _speak_in_fresh_process(rows, out_dir)
    with write_atomically(marker) as temporary:
        temporary.write_text(json.dumps(result))
    return result


def _speak_in_fresh_process(rows: list[dict[str, Any]], out_dir: Path) -> dict[str, Any]:
    # A plain subprocess, not multiprocessing: a fork would inherit the engine's state, a spawn would import the caller.
    process = subprocess.run(
        [sys.executable, "-m", "voicetextblender.prepare.synthesis", str(out_dir)],
        input=json.dumps(rows),
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode != 0:
        reason = process.stderr.strip().rpartition("\n")[2]
        raise AudioError(
            describe(
                f"shard of {rows[0]['path']}",
                f"the synthesis process ended with status {process.returncode}: {reason}",
                "it speaks every utterance of the shard",
                "Mend the cause and run again; finished shards are kept",
            )
        )
    result: dict[str, Any] = json.loads(process.stdout)
    return result


def _speak_shard(rows: list[dict[str, Any]], out_dir: Path) -> dict[str, Any]:
    synthesizer = EspeakSynthesizer()
    num_samples: dict[str, int] = {}
    failures: list[str] = []
    for row in rows:
        utterance = Utterance(**row)
        try:
            waveform = speak(synthesizer, utterance)
        except AudioError as error:
            failures.append(str(error))
            continue
        write_waveform(out_dir / utterance.path, waveform, SAMPLING_RATE)
        num_samples[utterance.path] = len(waveform)
    return {"num_samples": num_samples, "failures": failures}


if __name__ == "__main__":
    json.dump(_speak_shard(json.load(sys.stdin), Path(sys.argv[1])), sys.stdout)
