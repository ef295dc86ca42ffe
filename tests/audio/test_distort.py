"""Waveform augmentation: each section does what it says, by the key alone, and keeps the length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from voicetextblender.audio.codecs import CODECS, Codec, encode_and_decode
from voicetextblender.audio.distort import (
    AugmentConfig,
    Distorter,
    SpeedConfig,
    change_speed,
    draw_speed,
    num_samples_at_speed,
)
from voicetextblender.audio.waveform import write_waveform
from voicetextblender.errors import DataError
from voicetextblender.files import derive_seed


def make_speech(num_samples: int = 32_000, seed: int = 0) -> np.ndarray:
    """Noise of a band like that of speech, loud and soft by turns."""
    spectrum = np.fft.rfft(np.random.default_rng(seed).normal(size=num_samples))
    spectrum *= np.exp(-np.abs(np.fft.rfftfreq(num_samples, 1 / 16_000) - 600) / 900)
    waveform = np.fft.irfft(spectrum, num_samples) * (1 + np.sin(np.arange(num_samples) / 1500))
    return (0.1 * waveform / waveform.std()).astype(np.float32)


def power_db(waveform: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(waveform.astype(np.float64) ** 2)))


def power_between(waveform: np.ndarray, low: float, high: float) -> float:
    frequencies = np.fft.rfftfreq(len(waveform), 1 / 16_000)
    return float((np.abs(np.fft.rfft(waveform)[(frequencies >= low) & (frequencies < high)]) ** 2).sum())


def make_distorter(tmp_path: Path, **sections: Any) -> Distorter:
    return Distorter(AugmentConfig.model_validate(sections), "data.augment", tmp_path / "cache")


@pytest.fixture
def noises(tmp_path: Path) -> str:
    for number, (num_samples, rate) in enumerate([(4_000, 16_000), (90_000, 16_000), (30_000, 8_000)]):
        noise = np.random.default_rng(number).normal(0, 0.2, num_samples).astype(np.float32)
        write_waveform(tmp_path / f"noise/deep/{number}.flac", noise, rate)
    (tmp_path / "noise/LICENSE.txt").write_text("free")
    return str(tmp_path / "noise")


@pytest.fixture
def rooms(tmp_path: Path) -> str:
    response = np.random.default_rng(1).normal(size=6_000) * np.exp(-np.arange(6_000) / 900) * 0.2
    response[:40] = 0
    response[40] = 0.9
    write_waveform(tmp_path / "rooms/hall.wav", response.astype(np.float32))
    return str(tmp_path / "rooms")


def test_all_together_keep_the_length_and_follow_the_key(tmp_path: Path, noises: str, rooms: str) -> None:
    every = {"noise": {"folder": noises}, "room": {"folder": rooms}, "gain": {}, "band": {}, "codec": {}}
    distort = make_distorter(tmp_path, **every)
    again = make_distorter(tmp_path, **every)
    heard = []
    for key, num_samples in enumerate([160, 161, 5_003, 16_000, 40_000] * 4):
        speech = make_speech(num_samples, key)
        before = speech.copy()
        changed = distort(speech, key)
        assert changed.shape == speech.shape and changed.dtype == np.float32 and np.isfinite(changed).all()
        assert np.array_equal(changed, again(speech, key)) and np.array_equal(speech, before)
        heard.append(not np.array_equal(changed, speech))
    assert 10 <= sum(heard) <= 20


def test_what_a_section_does_is_the_same_whatever_the_others_are(tmp_path: Path) -> None:
    speech, loud = make_speech(), {"probability": 1.0}
    gain = make_distorter(tmp_path, gain=loud)
    both = make_distorter(tmp_path, gain=loud, band={"probability": 0.0})
    assert all(np.array_equal(gain(speech, key), both(speech, key)) for key in range(5))


def test_probability_is_that_of_a_clip(tmp_path: Path) -> None:
    distort = make_distorter(tmp_path, gain={"probability": 0.3})
    speech = make_speech(800)
    changed = sum(not np.array_equal(distort(speech, key), speech) for key in range(2000))
    assert 520 <= changed <= 680  # four standard deviations


def test_noise_has_the_ratio_that_was_asked_for(tmp_path: Path, noises: str) -> None:
    distort = make_distorter(tmp_path, noise={"folder": noises, "probability": 1.0, "snr_db": [5, 15]})
    speech = make_speech()
    ratios = [power_db(speech) - power_db(distort(speech, key) - speech) for key in range(40)]
    assert 4.9 < min(ratios) < 7 and 13 < max(ratios) < 15.1


def test_a_room_keeps_loudness_and_place(tmp_path: Path, rooms: str) -> None:
    speech = make_speech()
    heard = make_distorter(tmp_path, room={"folder": rooms, "probability": 1.0})(speech, 3)
    assert abs(power_db(heard) - power_db(speech)) < 0.01
    likeness = [np.dot(heard[100 : 20_000 + 100], speech[100 - lag : 20_000 + 100 - lag]) for lag in range(-60, 61)]
    assert int(np.argmax(likeness)) == 60


def test_gain_is_in_its_range(tmp_path: Path) -> None:
    distort = make_distorter(tmp_path, gain={"probability": 1.0, "gain_db": [-6, 3]})
    speech = make_speech(800)
    gains = [power_db(distort(speech, key)) - power_db(speech) for key in range(200)]
    assert -6.01 < min(gains) < -5.5 and 2.5 < max(gains) < 3.01


def test_bands(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    phone = make_distorter(tmp_path, band={"probability": 1.0, "telephone_share": 1.0})(noise, 1)
    assert power_between(phone, 0, 290) + power_between(phone, 3_410, 8_000) < 1e-3 * power_between(phone, 300, 3400)
    assert power_between(phone, 450, 3_250) == pytest.approx(power_between(noise, 450, 3_250), rel=0.02)
    low = make_distorter(tmp_path, band={"probability": 1.0, "telephone_share": 0.0, "cutoff_hz": [2_000, 2_500]})
    for key in range(10):
        heard = low(noise, key)
        assert power_between(heard, 2_520, 8_000) < 1e-3 * power_between(heard, 0, 1_850)
        assert power_between(heard, 0, 1_850) == pytest.approx(power_between(noise, 0, 1_850), rel=0.02)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("num_samples", [160, 8_001, 48_000])
def test_codecs_keep_length_and_place(codec: Codec, num_samples: int) -> None:
    speech = make_speech(num_samples)
    heard = encode_and_decode(speech, codec)
    assert heard.shape == speech.shape and heard.dtype == np.float32
    assert np.array_equal(heard, encode_and_decode(speech, codec))
    if num_samples == 48_000:
        assert not np.array_equal(heard, speech)
        middle = slice(1_000, -1_000)
        likeness = [np.dot(np.roll(heard, -lag)[middle], speech[middle]) for lag in range(-50, 51)]
        assert abs(int(np.argmax(likeness)) - 50) <= 1


def test_speed_changes_the_length_and_the_pitch_as_it_says() -> None:
    tone = np.sin(2 * np.pi * 200 * np.arange(16_000) / 16_000).astype(np.float32)
    for percent in range(80, 126):
        heard = change_speed(tone, percent)
        assert len(heard) == num_samples_at_speed(16_000, percent) == round(16_000 * 100 / percent)
        assert np.fft.rfftfreq(len(heard), 1 / 16_000)[np.abs(np.fft.rfft(heard)).argmax()] == pytest.approx(
            2 * percent, abs=1.2
        )
    assert change_speed(tone, 100) is tone
    assert len(change_speed(tone[:165], 110)) == 165  # 150 samples would make no audio frame


def test_speeds_are_drawn_evenly_from_their_range() -> None:
    config = SpeedConfig(probability=0.5, factors=(0.95, 1.05))
    speeds = [draw_speed(config, derive_seed(key)) for key in range(8000)]
    counts = np.bincount(speeds, minlength=106)
    assert set(speeds) == set(range(95, 106))
    assert 4200 < counts[100] < 4530  # half, and an eleventh of the other half
    assert all(270 < counts[percent] < 460 for percent in range(95, 106) if percent != 100)


def test_recordings_that_cannot_be_used_are_counted_and_refused_at_the_start(tmp_path: Path, noises: str) -> None:
    folder = Path(noises)
    (folder / "0.wav").write_bytes(b"RIFF" + bytes(range(200)))
    (folder / "1.wav").write_bytes(b"")
    write_waveform(folder / "2.wav", np.zeros(4_000, np.float32))
    with pytest.raises(
        DataError,
        match=r"^data.augment.noise.folder: 3 of the 6 recordings in '\S*noise' cannot be used; every one is heard in "
        r"training\. Make them again, or remove them\.\n(?s:.*)0\.wav(?s:.*)1\.wav(?s:.*)2\.wav: is silent",
    ):
        make_distorter(tmp_path, noise={"folder": noises})


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_a_folder_without_recordings_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    found = r"is no folder" if name == "nowhere" else "holds no recording"
    with pytest.raises(DataError, match=rf"^data.augment.room.folder: '\S*{name}' {found}; a folder with .wav, "):
        make_distorter(tmp_path, room={"folder": str(tmp_path / name)})


def test_recordings_are_decoded_once_and_again_when_they_change(tmp_path: Path, noises: str) -> None:
    make_distorter(tmp_path, noise={"folder": noises})
    stored = list((tmp_path / "cache").iterdir())
    make_distorter(tmp_path, noise={"folder": noises})
    assert list((tmp_path / "cache").iterdir()) == stored and len(stored) == 1
    (Path(noises) / "deep/0.flac").write_bytes(b"broken now")
    with pytest.raises(DataError, match="1 of the 3 recordings"):
        make_distorter(tmp_path, noise={"folder": noises})


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"gain": {"gain_db": [3, -3]}}, "it should have gain_db with the lower end first"),
        ({"speed": {"factors": [0.4, 1.1]}}, "greater than or equal to 0.5"),
        ({"noise": {"probability": 1}}, "Field required"),
        ({"codec": {"codecs": ["mp4"]}}, "Input should be 'mulaw'"),
        ({"echo": {}}, "Extra inputs"),
    ],
)
def test_values_that_are_not_allowed_are_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        AugmentConfig.model_validate(section)
