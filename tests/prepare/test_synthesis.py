"""Synthesised clips: what they sound like in numbers, that they repeat to the byte, and what goes wrong in words."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from voicetextblender.errors import AudioError
from voicetextblender.prepare.synthesis import (
    PEAK,
    EspeakSynthesizer,
    Utterance,
    add_noise,
    speak,
    synthesize_utterances,
    trim_silence,
)

pytest.importorskip("espeakng_loader", reason="speech synthesis needs the extra `mini`")

ANNA = Utterance("en/0.flac", "Anna buys three apples.", "en", "en-us+f3", 165, 50, None, 0)
UTTERANCES = [
    ANNA,
    Utterance("de/1.flac", "Anna kauft drei Äpfel.", "de", "de+f2", 150, 40, 20.0, 1),
    Utterance("en/2.flac", "What is two plus five?", "en", "en+m2", 190, 60, 15.0, 2),
    Utterance("de/3.flac", "Was ist zwei plus fünf?", "de", "de", 170, 55, None, 3),
    Utterance("en/4.flac", "Anna buys three apples.", "en", "en-us+f3", 165, 50, None, 4),
]


@pytest.fixture(scope="module")
def synthesizer() -> EspeakSynthesizer:
    return EspeakSynthesizer()


def synthesize(out_dir: Path, num_workers: int = 1, utterances: list[Utterance] = UTTERANCES) -> dict[str, int]:
    return synthesize_utterances(utterances, out_dir, num_workers, shard_size=2)


def test_clip_is_mono_16_khz_16_bit_and_has_the_length_told(tmp_path: Path) -> None:
    num_samples = synthesize(tmp_path)
    assert list(num_samples) == [utterance.path for utterance in UTTERANCES]
    for path, expected in num_samples.items():
        info = soundfile.info(tmp_path / path)
        assert (info.samplerate, info.channels, info.subtype, info.frames) == (16_000, 1, "PCM_16", expected)
        samples, _ = soundfile.read(tmp_path / path)
        assert 1.0 < info.duration < 3.0
        assert np.abs(samples).max() == pytest.approx(PEAK, abs=1e-3)


def test_files_are_byte_equal_whatever_the_number_of_workers(tmp_path: Path) -> None:
    for folder, num_workers in (("one", 1), ("two", 2)):
        synthesize(tmp_path / folder, num_workers)
    for utterance in UTTERANCES:
        assert (tmp_path / "one" / utterance.path).read_bytes() == (tmp_path / "two" / utterance.path).read_bytes()


def test_finished_shards_are_kept_and_a_changed_or_lost_one_is_spoken_again(tmp_path: Path) -> None:
    first = synthesize(tmp_path)
    times = {path: (tmp_path / path).stat().st_mtime_ns for path in first}
    (tmp_path / "en/2.flac").unlink()
    changed = [*UTTERANCES[:4], replace(UTTERANCES[4], text="Anna sells three apples.")]
    second = synthesize(tmp_path, utterances=changed)
    again = [path for path in second if (tmp_path / path).stat().st_mtime_ns != times[path]]
    assert again == ["en/2.flac", "de/3.flac", "en/4.flac"]
    assert first["en/4.flac"] != second["en/4.flac"]


def test_progress_counts_utterances(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    synthesize_utterances(UTTERANCES, tmp_path, 1, lambda done, total: seen.append((done, total)), shard_size=2)
    assert seen[-1] == (5, 5) and len(seen) == 3


def test_languages_voices_and_rates_differ(synthesizer: EspeakSynthesizer) -> None:
    slow, fast = (len(speak(synthesizer, replace(ANNA, rate_wpm=rate))) for rate in (120, 200))
    assert slow > 1.3 * fast
    assert len(speak(synthesizer, replace(ANNA, voice="de"))) != len(speak(synthesizer, ANNA))


def test_silence_is_trimmed_to_a_margin() -> None:
    tone = np.sin(np.arange(1600) * 0.3).astype(np.float32)
    waveform = np.concatenate([np.zeros(8000, np.float32), tone, np.zeros(4000, np.float32)])
    assert 1600 + 800 <= len(trim_silence(waveform, margin_s=0.05)) <= 1600 + 2 * 800
    assert len(trim_silence(np.zeros(100, np.float32))) == 0


def test_noise_has_the_asked_ratio_and_follows_its_seed() -> None:
    waveform = np.sin(np.arange(16_000) * 0.1).astype(np.float32)
    noisy = add_noise(waveform, 10.0, seed=7)
    ratio_db = 10.0 * np.log10(np.mean(waveform**2) / np.mean((noisy - waveform) ** 2))
    assert ratio_db == pytest.approx(10.0, abs=0.2)
    assert np.array_equal(noisy, add_noise(waveform, 10.0, seed=7))
    assert not np.array_equal(noisy, add_noise(waveform, 10.0, seed=8))


@pytest.mark.parametrize(
    ("voice", "message"),
    [
        ("xx", "voice 'xx': espeak-ng has no voice 'xx'; a voice is a language of espeak-ng"),
        ("en+nobody", "voice 'en+nobody': espeak-ng has no variant 'nobody'; a voice is a language"),
    ],
)
def test_unknown_voice_is_refused(synthesizer: EspeakSynthesizer, voice: str, message: str) -> None:
    with pytest.raises(AudioError, match="^" + message.replace("+", r"\+")):
        speak(synthesizer, replace(ANNA, voice=voice))


def test_text_without_sound_is_named_or_skipped(tmp_path: Path) -> None:
    utterances = [ANNA, replace(ANNA, path="b.flac", text="...")]
    with pytest.raises(AudioError, match=r"^b.flac: the text '...' makes no sound with voice 'en-us\+f3'; "):
        synthesize(tmp_path, utterances=utterances)
    assert list(synthesize_utterances(utterances, tmp_path, on_failure="skip")) == ["en/0.flac"]


def test_two_utterances_of_one_path_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"^en/0.flac: two utterances go there; each needs its own path\. "):
        synthesize(tmp_path, utterances=[ANNA, ANNA])


def test_crash_of_the_process_is_told(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(
        AudioError, match=r"^shard of en/0.flac: the synthesis process ended with status 1: NotADirectoryError: "
    ):
        synthesize(blocked)


def test_missing_package_is_answered_with_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(AudioError, match=r"Run: pip install 'voicetextblender\[mini\]'\.$"):
        EspeakSynthesizer()
