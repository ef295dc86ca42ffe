"""The index: exact lengths, every dropped row counted and named, a cache that is taken only when it may be."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.data.rows import WriteManifest, audio_row, text_row, write_tone
from voicetextblender.audio.lengths import Stage, TokenCount, num_audio_tokens
from voicetextblender.audio.waveform import read_waveform
from voicetextblender.chat.conversation import AudioPart
from voicetextblender.chat.render import Renderer
from voicetextblender.data import index as index_module
from voicetextblender.data import measure
from voicetextblender.data.index import SourceIndex, fingerprint_sources, open_index
from voicetextblender.data.measure import (
    CLIP_TOO_LONG,
    NO_AUDIO,
    NO_CONVERSATION,
    TOO_MANY_TOKENS,
    Geometry,
    Limits,
    measure_clip,
)
from voicetextblender.data.sources import SourceConfig, open_source
from voicetextblender.errors import AudioError, DataError
from voicetextblender.files import fingerprint

LIMITS = Limits(max_conversation_tokens=2048, max_clip_s=40.0)


class Opener:
    """Opens the index of a manifest with the cache beside it."""

    def __init__(self, renderer: Renderer, geometry: Geometry) -> None:
        self.renderer = renderer
        self.geometry = geometry

    def __call__(self, path: Path, limits: Limits = LIMITS, **options: object) -> SourceIndex:
        source = open_source(SourceConfig(name="train", path=str(path)))
        return open_index(source, self.renderer, self.geometry, limits, path.parent / "cache", **options)


@pytest.fixture
def open_manifest(renderer: Renderer, geometry: Geometry) -> Opener:
    return Opener(renderer, geometry)


def test_lengths_are_those_of_the_rendered_rows(
    write_manifest: WriteManifest, open_manifest: Opener, renderer: Renderer, tmp_path: Path
) -> None:
    write_tone(tmp_path / "long.flac", 2.345, 22_050)
    write_tone(tmp_path / "short.flac", 0.5)
    clips = ({"path": "long.flac"}, {"path": "short.flac", "start": 0.1}, {"path": "long.flac", "duration": 1.0037})
    index = open_manifest(write_manifest([text_row(7), audio_row(1, *clips), audio_row(2, clips[2])]))

    read = [
        [
            read_waveform(clip.path or "", start_s=clip.start_s, duration_s=clip.duration_s)
            for clip in index.read(row).clips
        ]
        for row in range(3)
    ]
    assert index.num_samples.tolist() == [sum(map(len, waveforms)) for waveforms in read]
    assert index.num_clips.tolist() == [0, 3, 1]
    rendered = [
        renderer.render(index.read(row), [num_audio_tokens(len(waveform)) for waveform in waveforms])
        for row, waveforms in enumerate(read)
    ]
    assert index.num_tokens.tolist() == [len(row.token_ids) for row in rendered]
    audio = [sum(num_audio_tokens(len(waveform)) for waveform in waveforms) for waveforms in read]
    assert index.num_audio_tokens.tolist() == audio
    assert index.num_supervised.tolist() == [row.supervision_mask.sum() for row in rendered]
    assert index.num_tokens[0] == len("<Is 7?><Yes.>")  # one token for each bracket
    assert index.num_supervised[0] == len("Yes.>")


def test_over_long_rows_are_dropped_and_counted_by_the_limits_of_the_day(
    write_manifest: WriteManifest, open_manifest: Opener, tmp_path: Path
) -> None:
    write_tone(tmp_path / "a.flac", 2.0)
    path = write_manifest([text_row(1), audio_row(1, {"path": "a.flac"}), text_row(2, "Yes." * 50), text_row(3)])
    index = open_manifest(path, Limits(100, 1.5))
    assert [index.read(row).id for row in range(len(index))] == ["t1", "t3"]
    assert index.num_rows == 4 and index.drops == {CLIP_TOO_LONG: 1, TOO_MANY_TOKENS: 1}
    assert [(drop.line, drop.text.removeprefix(f"{path}")) for drop in index.dropped] == [
        (2, ":2: a clip of 2.0 s; a clip has at most 1.5 s. Split it, or raise data.max_clip_s."),
        (3, ":3: 209 tokens; a conversation has at most 100. Split it, or raise data.max_conversation_tokens."),
    ]
    wider = open_manifest(path)
    assert len(wider) == 4 and wider.drops == {} and wider.stem == index.stem
    assert wider.where(2) == f"{path}:3"


BAD_ROWS = [
    (audio_row(1, {"path": "gone.flac", "duration": 1.0}), NO_AUDIO, r":2 turn 1: audio '.*gone.flac' does not exist"),
    (audio_row(1, {"path": "gone.flac"}), NO_AUDIO, r":2 turn 1: audio '.*gone.flac' does not exist"),
    (audio_row(1, {"path": "text.flac"}), NO_AUDIO, r":2 turn 1: audio '.*text.flac' cannot be read"),
    (audio_row(1, {"path": "empty.flac"}), NO_AUDIO, r":2 turn 1: audio '.*empty.flac' is an empty file"),
    (audio_row(1, {"path": "a.flac", "duration": 0.009}), NO_AUDIO, r":2 turn 1: audio '.*a.flac' is 144 samples long"),
    (audio_row(1, {"path": "a.flac", "start": 9.0}), NO_AUDIO, r":2 turn 1: audio '.*a.flac' is 1.000 s long and"),
    ({"id": "x"}, NO_CONVERSATION, ":2: a conversation lacks 'messages'"),
    ("oh\n", NO_CONVERSATION, ":2: no JSON at column 1"),
    ({"id": "x", "messages": [{"role": "robot", "content": "a"}]}, NO_CONVERSATION, ":2 turn 1: role is 'robot'"),
    ({"id": "x", "messages": [{"role": "user", "content": "a"}]}, NO_CONVERSATION, ":2: no turn is the assistant's"),
]


@pytest.mark.parametrize(("row", "reason", "text"), BAD_ROWS)
def test_bad_rows_stop_or_are_counted(
    write_manifest: WriteManifest, open_manifest: Opener, tmp_path: Path, row: object, reason: str, text: str
) -> None:
    write_tone(tmp_path / "a.flac", 1.0)
    (tmp_path / "text.flac").write_text("This is no audio.")
    (tmp_path / "empty.flac").touch()
    path = write_manifest([text_row(1), row, text_row(2)])
    with pytest.raises(DataError, match=text):
        open_manifest(path)
    index = open_manifest(path, on_bad_row="skip")
    assert len(index) == 2 and index.num_rows == 3 and index.drops == {reason: 1}
    assert index.dropped[0].line == 2 and index.read(1).id == "t2"


def test_all_offenders_are_told_at_once(write_manifest: WriteManifest, open_manifest: Opener) -> None:
    path = write_manifest(["[1]\n"] * 7)
    with pytest.raises(DataError) as caught:
        open_manifest(path)
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[0] for line in lines[:5]] == [f"{path}:{i}" for i in range(1, 6)]
    assert lines[5:] == ["... and 2 more"]


def test_empty_manifest(write_manifest: WriteManifest, open_manifest: Opener) -> None:
    with pytest.raises(DataError, match=r"train.jsonl: 0 rows; a manifest has at least 1\. Fill it, or remove it\."):
        open_manifest(write_manifest(["\n", "\n"]))
    assert len(open_manifest(write_manifest(["oh\n"]), on_bad_row="skip")) == 0


class Scans:
    """Counts how often a manifest is really read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self._scan = index_module.scan_source
        monkeypatch.setattr(index_module, "scan_source", self)

    def __call__(self, *arguments: Any, **options: Any) -> object:
        self.count += 1
        return self._scan(*arguments, **options)


def test_the_cache_is_taken_when_nothing_changed(
    write_manifest: WriteManifest,
    open_manifest: Opener,
    renderer: Renderer,
    geometry: Geometry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scans = Scans(monkeypatch)
    path = write_manifest([text_row(1), text_row(2)])
    first, again = open_manifest(path), open_manifest(path)
    assert scans.count == 1
    np.testing.assert_array_equal(first.num_tokens, again.num_tokens)
    open_manifest(path, Limits(1000, 3.0))
    assert scans.count == 1
    Opener(renderer, Geometry(geometry.num_audio_tokens, "another"))(path)
    assert scans.count == 2
    assert len(open_manifest(write_manifest([text_row(1), text_row(2), text_row(3)]))) == 3
    assert scans.count == 3


def test_mended_audio_is_noticed_without_a_change_of_the_manifest(
    write_manifest: WriteManifest, open_manifest: Opener, tmp_path: Path
) -> None:
    path = write_manifest([text_row(1), audio_row(1, {"path": "a.flac", "duration": 1.0})])
    assert open_manifest(path, on_bad_row="skip").drops == {NO_AUDIO: 1}
    write_tone(tmp_path / "a.flac", 1.0)
    assert open_manifest(path).drops == {}


def test_an_interrupted_write_leaves_nothing_that_is_taken(
    write_manifest: WriteManifest, open_manifest: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_manifest([text_row(1)])

    def fail(*arguments: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(index_module, "json", SimpleNamespace(dumps=fail, loads=json.loads))
        with pytest.raises(OSError, match="No space left"):
            open_manifest(path)
    assert len(open_manifest(path)) == 1


def test_a_text_source_touches_no_audio(
    write_manifest: WriteManifest, open_manifest: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "count_samples", None)
    assert open_manifest(write_manifest([text_row(1)])).hours == 0


def test_pickles_as_a_path(
    write_manifest: WriteManifest, open_manifest: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_module, "IN_MEMORY_BYTES", 0)
    index = open_manifest(write_manifest([text_row(number) for number in range(2000)]))
    pickled = pickle.dumps(index)
    assert len(pickled) < 2000
    copy = pickle.loads(pickled)
    assert copy.read(1999) == index.read(1999)
    np.testing.assert_array_equal(copy.num_tokens, index.num_tokens)


def test_fingerprint_tells_what_was_used(write_manifest: WriteManifest, open_manifest: Opener, tmp_path: Path) -> None:
    write_tone(tmp_path / "a.flac", 1.8)
    clip = {"path": "a.flac"}
    path = write_manifest([text_row(1), audio_row(1, clip), audio_row(2, clip, clip), text_row(2, "Yes." * 99)])
    index = open_manifest(path, Limits(200, 2.0))
    assert fingerprint_sources({"train": index}) == {
        "train": {
            "path": str(path),
            "sha256": fingerprint(path),
            "rows": 4,
            "kept": 3,
            "drops": {TOO_MANY_TOKENS: 1},
            "hours": 0.0015,
        }
    }


@pytest.mark.parametrize("num_workers", [0, 1])
def test_progress_is_told_in_bytes(write_manifest: WriteManifest, open_manifest: Opener, num_workers: int) -> None:
    told: list[tuple[int, int]] = []
    path = write_manifest([text_row(number, "Yes." * 100) for number in range(600)])
    open_manifest(path, report=lambda done, total: told.append((done, total)), num_workers=num_workers)
    size = path.stat().st_size
    assert len(told) >= 3 and told == sorted(told) and told[-1] == (size, size)


@pytest.mark.parametrize(
    ("stages", "shortest"),
    [
        (((400, 160), (2, 2)), 560),  # W2V-BERT: two frames of 25 ms, 10 ms apart
        (((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2)), 400),  # wav2vec2
        (((160, 160),), 160),
    ],
)
def test_a_clip_has_what_the_encoder_needs(stages: tuple[tuple[int, int], ...], shortest: int) -> None:
    geometry = Geometry(TokenCount(tuple(Stage(*stage) for stage in stages)), "made up")
    assert geometry.shortest_clip == shortest
    assert measure_clip(AudioPart(None, waveform=np.zeros(shortest, np.float32)), geometry, "here") == shortest
    text = rf"here: audio '.*' is {shortest - 1} samples long; the encoder takes at least {shortest} samples \(\d+ ms\)"
    with pytest.raises(AudioError, match=text):
        measure_clip(AudioPart(None, waveform=np.zeros(shortest - 1, np.float32)), geometry, "here")
