from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from voicetextblender.audio.lengths import resampled_num_samples
from voicetextblender.audio.waveform import (
    AudioInfo,
    check_clip_length,
    check_waveform,
    count_clip_samples,
    read_audio_info,
    read_waveform,
    write_waveform,
)
from voicetextblender.errors import AudioError


def tone(num_samples: int, sampling_rate: int = 16_000, frequency_hz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency_hz * np.arange(num_samples) / sampling_rate)).astype(np.float32)


@pytest.mark.parametrize("suffix", [".flac", ".wav"])
def test_written_and_read_again(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"clip{suffix}"
    write_waveform(path, tone(16_001))
    assert read_audio_info(path) == AudioInfo(16_001, 16_000, 1, 16_001 / 16_000)
    waveform = read_waveform(path)
    assert waveform.dtype == np.float32 and waveform.shape == (16_001,)
    assert np.abs(waveform - tone(16_001)).max() <= 0.5 / 32_768
    write_waveform(tmp_path / f"again{suffix}", waveform)
    assert np.array_equal(read_waveform(tmp_path / f"again{suffix}"), waveform)


def test_loud_samples_are_clipped(tmp_path: Path) -> None:
    write_waveform(tmp_path / "loud.wav", np.array([2.0, -2.0, 1.0] * 100, dtype=np.float32))
    waveform = read_waveform(tmp_path / "loud.wav")
    assert waveform.max() == np.float32(32_767 / 32_768) and waveform.min() == -1.0


@pytest.mark.parametrize(
    ("suffix", "audio_format", "subtype"),
    [(".wav", "WAV", "FLOAT"), (".flac", "FLAC", "PCM_24"), (".ogg", "OGG", "VORBIS"), (".mp3", "MP3", None)],
)
def test_formats_rates_and_channels(tmp_path: Path, suffix: str, audio_format: str, subtype: str | None) -> None:
    path = tmp_path / f"clip{suffix}"
    left = tone(44_100, 44_100)
    soundfile.write(path, np.stack([left, np.zeros_like(left)], axis=1), 44_100, format=audio_format, subtype=subtype)
    info = read_audio_info(path)
    assert (info.sampling_rate, info.num_channels) == (44_100, 2)
    waveform = read_waveform(path)
    assert len(waveform) == resampled_num_samples(info.num_samples, 44_100, 16_000) == count_clip_samples(path)
    middle = waveform[4_000:12_000]
    spectrum = np.abs(np.fft.rfft(middle))
    assert spectrum.argmax() * 2 == 440
    assert middle.std() == pytest.approx(0.25 / np.sqrt(2), rel=0.05)


def test_opus_segment_equals_the_same_part_of_the_whole(tmp_path: Path) -> None:
    path = tmp_path / "clip.opus"
    soundfile.write(path, tone(32_000), 16_000, format="OGG", subtype="OPUS")
    whole = read_waveform(path)
    segment = read_waveform(path, start_s=1.0, duration_s=0.5)
    assert len(segment) == 8_000
    assert np.abs(segment - whole[16_000:24_000]).max() < 0.02


@given(
    st.sampled_from([8_000, 16_000, 22_050, 44_100, 48_000]),
    st.floats(0.0, 0.5, allow_nan=False),
    st.one_of(st.none(), st.floats(0.02, 0.5, allow_nan=False)),
)
@settings(deadline=None, max_examples=60)
def test_as_many_samples_as_counted(
    tmp_path_factory: pytest.TempPathFactory, sampling_rate: int, start_s: float, duration_s: float | None
) -> None:
    path = tmp_path_factory.getbasetemp() / f"{sampling_rate}.wav"
    if not path.exists():
        write_waveform(path, tone(sampling_rate, sampling_rate), sampling_rate)
    waveform = read_waveform(path, start_s=start_s, duration_s=duration_s)
    assert len(waveform) == count_clip_samples(path, start_s=start_s, duration_s=duration_s)


def test_a_rounded_duration_is_filled_with_silence(tmp_path: Path) -> None:
    write_waveform(tmp_path / "a.wav", tone(15_950))
    waveform = read_waveform(tmp_path / "a.wav", duration_s=1.0)
    assert len(waveform) == 16_000 and not waveform[15_950:].any()


def test_recordings_of_people(shared_data: Path) -> None:
    opus = shared_data / "kathleen_arctic_en/audio/arctic_a0001.opus"
    assert read_waveform(opus).shape == (60_420,)
    eight_khz = shared_data / "fsdd_digits_en/audio/0_george_0.flac"
    assert read_waveform(eight_khz).shape == (2 * 2_384,)


def refused(text: str) -> pytest.RaisesContext[AudioError]:
    return pytest.raises(AudioError, match=re.escape(text))


def test_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "no.flac"
    with refused(f"{path}: the audio does not exist; an audio file is needed. Correct the path."):
        read_waveform(path)
    with refused(f"train.jsonl:7 turn 1: audio '{path}' does not exist; an audio file is needed."):
        read_audio_info(path, where="train.jsonl:7 turn 1")
    with refused(f"{tmp_path}: the audio is a folder; an audio file is needed."):
        read_waveform(tmp_path)


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    with refused("empty.wav: the audio is an empty file (0 bytes); an audio file is needed."):
        read_waveform(tmp_path / "empty.wav")


def test_no_samples(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 16_000)
    with refused("none.wav: the audio is empty (0 samples); at least one audio frame (10 ms) is needed. Remove it."):
        read_waveform(tmp_path / "none.wav")


def test_no_audio_file(tmp_path: Path) -> None:
    path = tmp_path / "text.wav"
    path.write_text("this is no audio\n" * 100)
    if importlib.util.find_spec("av") is None:
        text = "libsndfile (Format not recognised); wav, flac, ogg, opus or mp3 is needed. Check the file, or, for webm"
    else:
        text = "an audio file is needed. Check the file, or make it again."
    with refused(text):
        read_waveform(path)


def test_without_pyav_the_install_line_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clip.webm").write_bytes(b"\x1a\x45\xdf\xa3" + bytes(100))
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with refused("install PyAV: pip install 'voicetextblender[av]'."):
        read_waveform(tmp_path / "clip.webm")


@pytest.mark.parametrize("suffix", [".webm", ".m4a"])
def test_pyav_reads_the_rest(tmp_path: Path, suffix: str) -> None:
    av = pytest.importorskip("av", reason="needs the extra `av`")
    path = tmp_path / f"clip{suffix}"
    codec = "libopus" if suffix == ".webm" else "aac"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=48_000, layout="stereo")
        stereo = np.stack([tone(48_000, 48_000), np.zeros(48_000, np.float32)])
        frame = av.AudioFrame.from_ndarray(stereo, format="fltp", layout="stereo")
        frame.sample_rate = 48_000
        resampler = av.AudioResampler(stream.format, "stereo", 48_000, frame_size=stream.frame_size)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    waveform = read_waveform(path)
    assert len(waveform) == count_clip_samples(path) and abs(len(waveform) - 16_000) < 800
    middle = waveform[4_000:12_000]
    assert np.abs(np.fft.rfft(middle)).argmax() * 2 == 440
    assert middle.std() == pytest.approx(0.25 / np.sqrt(2), rel=0.1)
    segment = read_waveform(path, start_s=0.25, duration_s=0.5)
    assert np.abs(segment[100:-100] - waveform[4_100:11_900]).max() < 0.01


def test_breaks_off(tmp_path: Path) -> None:
    path = tmp_path / "cut.flac"
    write_waveform(path, np.random.default_rng(0).uniform(-1, 1, 32_000).astype(np.float32))
    path.write_bytes(path.read_bytes()[:30_000])
    with refused("cut.flac: the audio"):
        read_waveform(path)


def test_not_finite(tmp_path: Path) -> None:
    waveform = tone(1_000)
    waveform[[3, 4]] = np.nan, np.inf
    soundfile.write(tmp_path / "nan.wav", waveform, 16_000, subtype="FLOAT")
    text = "nan.wav: the audio has 2 NaN or infinite samples of 1000; samples are finite, between -1 and 1."
    with refused(text):
        read_waveform(tmp_path / "nan.wav")


def test_shorter_than_one_frame(tmp_path: Path) -> None:
    write_waveform(tmp_path / "short.wav", tone(159))
    text = "short.wav: the audio is 159 samples long; one audio frame takes 160 samples (10 ms)."
    with refused(text):
        read_waveform(tmp_path / "short.wav")
    with refused("row 3: the audio is 159 samples long"):
        check_clip_length(159, 40.0, "row 3")
    write_waveform(tmp_path / "just.wav", tone(160))
    assert len(read_waveform(tmp_path / "just.wav")) == 160


def test_too_long() -> None:
    text = "row 3: audio 'a.flac' is 44.1 s; a clip is at most 40.0 s. Split it, or raise max_clip_s"
    with refused(text):
        check_clip_length(44_100 * 16, 40.0, "row 3", subject="audio 'a.flac'")
    check_clip_length(640_000, 40.0, "row 3")


@pytest.mark.parametrize(
    ("start_s", "duration_s", "segment"),
    [(1.0, None, "1.000 s to the end"), (0.5, 0.6, "0.500 s to 1.100 s"), (-0.1, 0.5, "-0.100 s to 0.400 s")],
)
def test_segment_outside(tmp_path: Path, start_s: float, duration_s: float | None, segment: str) -> None:
    write_waveform(tmp_path / "a.wav", tone(16_000))
    with refused(f"a.wav: the audio is 1.000 s long and the segment is {segment}; a segment lies inside its file."):
        read_waveform(tmp_path / "a.wav", start_s=start_s, duration_s=duration_s)


def test_unusable_waveforms() -> None:
    with refused("clip: the audio has the shape (2, 400); a waveform is mono: one axis, samples."):
        check_waveform(np.zeros((2, 400), np.float32), "clip")
    with refused("clip: the audio is empty (0 samples); at least 160 samples are needed. Remove it."):
        check_waveform(np.zeros(0, np.float32), "clip")


def test_other_suffix(tmp_path: Path) -> None:
    with refused("a.mp3: the suffix is '.mp3'; waveforms are written as .flac or .wav. Rename the file."):
        write_waveform(tmp_path / "a.mp3", tone(400))
    assert not list(tmp_path.iterdir())
