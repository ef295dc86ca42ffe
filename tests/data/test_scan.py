"""An index built by processes: the same bytes as by one, and nothing hangs it."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tests.data.rows import WriteManifest, audio_row, text_row, write_tone
from voicetextblender.chat.conversation import AudioPart
from voicetextblender.chat.render import Renderer
from voicetextblender.data import measure
from voicetextblender.data.index import SourceIndex, open_index
from voicetextblender.data.measure import DIED, NO_AUDIO, NO_CONVERSATION, STUCK, Geometry, Limits, measure_clip
from voicetextblender.data.readers import source as source_module
from voicetextblender.data.readers import text_files
from voicetextblender.data.readers.config import SourceConfig
from voicetextblender.data.sources import open_source

LIMITS = Limits(2048, 40.0)
Build = Callable[..., SourceIndex]


@pytest.fixture
def build(renderer: Renderer, geometry: Geometry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """Builds an index with a cache of its own, from small spans."""
    monkeypatch.setattr(text_files, "SPAN_SIZE", 700)

    def build(num_workers: int, path: Path, **options: object) -> SourceIndex:
        config = SourceConfig(name="train", path=str(path), **options)  # type: ignore[arg-type]
        source = open_source(config, tmp_path / "cache")
        cache = tmp_path / f"cache-{num_workers}"
        return open_index(
            source, renderer, geometry, LIMITS, cache, on_bad_row="skip", num_workers=num_workers, time_limit_s=2.0
        )

    return build


def stored(index: SourceIndex) -> tuple[bytes, bytes]:
    return index.stem.with_suffix(".npy").read_bytes(), index.stem.with_suffix(".json").read_bytes()


def mixed_rows(tmp_path: Path) -> list[object]:
    """Rows of all sorts in random order: sound, blank, broken, with and without lengths."""
    write_tone(tmp_path / "a.flac", 1.0)
    clips = ({"path": "a.flac"}, {"path": "a.flac", "duration": 0.7}, {"path": "gone.flac"})
    made: list[object] = [text_row(number, "Yes." * (number % 7 + 1)) for number in range(120)]
    made += [audio_row(1000 + number, clips[number % 3]) for number in range(40)]
    made += ["\n", "  \r\n", "oh\n", '{"id": "x"}\n'] * 5
    random.Random(0).shuffle(made)
    return made


def test_any_number_of_processes_writes_the_same_bytes(
    build: Build, write_manifest: WriteManifest, tmp_path: Path
) -> None:
    path = write_manifest(mixed_rows(tmp_path))
    serial = build(0, path)
    assert serial.num_rows == 170 and serial.drops == {NO_AUDIO: 13, NO_CONVERSATION: 10}
    for num_workers in (1, 3):
        index = build(num_workers, path)
        assert stored(index) == stored(serial)
    lines = path.read_text().splitlines()
    assert [index.read(row).id for row in range(len(index))] == [
        json.loads(lines[int(index.where(row).rpartition(":")[2]) - 1])["id"] for row in range(len(index))
    ]


@pytest.mark.parametrize("kind", ["list", "files", "table", "quoted table"])
def test_files_that_are_cut_otherwise(build: Build, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("voicetextblender.data.scan.SPAN_SIZE", 700)
    rows = [{"question": f"What is {number}?", "answer": 'He said: "Yes,\tit is."'} for number in range(60)]
    if kind == "list":
        (tmp_path / "rows.json").write_text(json.dumps(rows))
        arguments = {"path": tmp_path / "rows.json", "kind": "qa"}
    elif kind == "files":
        for part in range(3):
            text = "".join(json.dumps(row) + "\n" for row in rows[20 * part : 20 * part + 20])
            (tmp_path / f"rows_{part}.json").write_text(text)
        arguments = {"path": tmp_path / "rows_{0..2}.json", "kind": "qa"}
    else:
        sign, suffix = ("\t", "tsv") if kind == "table" else (",", "csv")
        answer = '"He said:\n""Yes"""' if kind == "quoted table" else "Yes."
        lines = [f"question{sign}answer\n"] + [f"What is {number}?{sign}{answer}\n" for number in range(60)]
        (tmp_path / f"rows.{suffix}").write_text("\n\n" + "".join(lines))
        arguments = {"path": tmp_path / f"rows.{suffix}", "kind": "table"}
    serial, parallel = build(0, **arguments), build(2, **arguments)
    assert len(serial) == 60 and stored(parallel) == stored(serial)


def hang_or_die(clip: AudioPart, geometry: Geometry, where: str) -> int:
    if str(clip.path).endswith("hang.flac"):
        time.sleep(60)
    if str(clip.path).endswith("die.flac"):
        os._exit(7)
    return measure_clip(clip, geometry, where)


def test_a_clip_that_hangs_or_kills_is_a_bad_row(
    build: Build, write_manifest: WriteManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "measure_clip", hang_or_die)
    write_tone(tmp_path / "a.flac", 1.0)
    names = ["a.flac", "hang.flac", "a.flac", "die.flac", *["a.flac"] * 30]
    path = write_manifest([audio_row(number, {"path": name}) for number, name in enumerate(names)])
    begun = time.monotonic()
    index = build(2, path)
    assert time.monotonic() - begun < 30
    assert index.drops == {STUCK: 1, DIED: 1} and len(index) == 32
    told = [(drop.line, drop.text.removeprefix(f"{path}:")) for drop in index.dropped]
    assert told == [
        (2, "2: the row took longer than 2 s; a row is read and decoded at once. Make the audio again, or remove it."),
        (4, "4: the row ended the process (exit code 7); a row is read and decoded at once. Make the audio again, or "
            "remove it."),
    ]  # fmt: skip


def test_a_missing_clip_does_not_build_the_index_anew(
    build: Build, write_manifest: WriteManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_manifest([text_row(1), audio_row(2, {"path": "gone.flac"})])
    built = build(0, path)
    changed = os.stat(built.stem.with_suffix(".npy")).st_mtime_ns
    assert build(0, path).drops == {NO_AUDIO: 1}
    assert os.stat(built.stem.with_suffix(".npy")).st_mtime_ns == changed
    write_tone(tmp_path / "gone.flac", 1.0)
    assert build(0, path).drops == {}


def test_spans_are_all_rows_whatever_their_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [b"x" * length + b"\n" for length in np.random.default_rng(0).integers(0, 90, 300)]
    (tmp_path / "rows.jsonl").write_bytes(b"".join(lines)[:-1])
    store = open_source(SourceConfig(name="all", path=str(tmp_path / "rows.jsonl")), tmp_path).store
    whole = list(source_module.scan_store(store))
    for size in (1, 64, 1000):
        monkeypatch.setattr(text_files, "SPAN_SIZE", size)
        spans = list(store.spans())
        assert [row for span in spans for row in store.scan(span)] == whole
        assert all(one.stop == other.start for one, other in pairwise(spans))
