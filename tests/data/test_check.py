"""The check: nothing ends it, and every fault is counted once, with its reason and its place."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from tests.data.rows import WriteManifest, audio_row, text_row, write_tone
from voicetextblender.audio.lengths import num_audio_tokens
from voicetextblender.chat.render import Renderer
from voicetextblender.data import check as check_module
from voicetextblender.data.check import (
    NO_ROWS,
    NOT_OPENED,
    REPEATED_ID,
    UNEXPECTED,
    CheckedSource,
    CheckResult,
    check_sources,
    write_problems,
)
from voicetextblender.data.measure import (
    CLIP_TOO_LONG,
    DIED,
    NO_AUDIO,
    NO_CONVERSATION,
    STUCK,
    TOO_MANY_TOKENS,
    Geometry,
    Limits,
)
from voicetextblender.data.readers.config import SourceConfig

GEOMETRY = Geometry(num_audio_tokens, "hop 160, factor 8")


def check(path: Path, renderer: Renderer | None = None, limits: Limits | None = None, **options: object) -> CheckResult:
    return check_sources(
        [CheckedSource(SourceConfig(name="all", path=str(path)), limits)], renderer, GEOMETRY, **options
    )


def found(result: CheckResult) -> list[tuple[int, str]]:
    return [(problem.line, problem.reason) for problem in result.problems]


def test_sound_rows_have_no_problem(write_manifest: WriteManifest, renderer: Renderer, tmp_path: Path) -> None:
    write_tone(tmp_path / "a.flac", 0.5)
    rows = [audio_row(number, {"path": "a.flac"}, {"path": "a.flac", "duration": 0.2}) for number in range(70)]
    told: list[tuple[int, int]] = []
    path = write_manifest([*rows, text_row(1)])
    result = check(path, renderer, decode=True, num_workers=2, report=lambda done, total: told.append((done, total)))
    assert (result.num_rows, result.num_clips_decoded, result.problems) == (71, 140, [])
    assert told == [(64, 71), (71, 71)]


def test_every_fault_is_counted_with_its_reason(
    write_manifest: WriteManifest, renderer: Renderer, tmp_path: Path
) -> None:
    write_tone(tmp_path / "a.flac", 0.5)
    (tmp_path / "cut.flac").write_bytes((tmp_path / "a.flac").read_bytes()[:200])
    gone, cut = {"path": "none.flac"}, {"path": "cut.flac", "duration": 0.5}
    unasked = {"id": "u", "messages": [{"role": "user", "content": "Well?"}]}
    path = write_manifest(
        ["{\n", text_row(1), audio_row(1, gone, {"path": "a.flac"}), audio_row(2, cut), text_row(1), unasked]
    )
    first = [(1, NO_CONVERSATION), (3, NO_AUDIO)]
    last = [(5, REPEATED_ID), (6, NO_CONVERSATION)]
    assert found(check(path, renderer)) == first + last
    decoded = check(path, renderer, decode=True)
    assert found(decoded) == [*first, (4, NO_AUDIO), *last]
    assert (decoded.num_rows, decoded.num_clips_decoded) == (6, 1)
    assert found(check(path)) == [*first, (5, REPEATED_ID)]  # without a model nothing is rendered
    texts = {problem.line: problem.text for problem in decoded.problems}
    assert texts[3].startswith(f"{path}:3 turn 1: audio '{tmp_path}/none.flac' does not exist;")
    assert texts[5] == f"{path}:5: its id is that of {path}:2; ids are unique within a source. Rename it."


def test_rows_beyond_a_limit_are_told_and_are_no_fault(
    write_manifest: WriteManifest, renderer: Renderer, tmp_path: Path
) -> None:
    write_tone(tmp_path / "a.flac", 1.5)
    path = write_manifest([text_row(1, "Yes." * 99), audio_row(1, {"path": "a.flac"}), text_row(2)])
    result = check(path, renderer, Limits(200, 1.0))
    assert found(result) == [(1, TOO_MANY_TOKENS), (2, CLIP_TOO_LONG)]
    assert result.faults == []
    assert result.problems[1].text == (
        f"{path}:2: a clip of 1.5 s; a clip has at most 1.0 s. Split it, or raise data.max_clip_s."
    )


def test_a_decoder_that_hangs_dies_or_raises_is_counted(
    write_manifest: WriteManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(clip: object, where: str) -> None:
        if "turn 1" in where and ":1 " in where:
            time.sleep(60)
        if ":2 " in where:
            os._exit(9)
        if ":3 " in where:
            raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(check_module, "read_clip", read)  # the processes are forked, and so have it too
    write_tone(tmp_path / "a.flac", 0.5)
    path = write_manifest([audio_row(number, {"path": "a.flac"}) for number in range(1, 5)])
    result = check(path, decode=True, time_limit_s=1.0)
    assert found(result) == [(1, STUCK), (2, DIED), (3, UNEXPECTED)]
    assert (result.num_rows, result.num_clips_decoded) == (4, 1)
    assert result.problems[0].text == (
        f"{path}:1: clip 1 took longer than 1 s; a row is read and decoded at once. Make the audio again, or remove it."
    )
    assert result.problems[2].text.startswith(f"{path}:3: ZeroDivisionError: division by zero;")


def test_a_source_that_is_missing_or_empty_does_not_stop_the_others(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "bad.jsonl").write_text("1\n")
    names = ("none", "empty", "bad")
    sources = [CheckedSource(SourceConfig(name=name, path=f"{tmp_path}/{name}.jsonl")) for name in names]
    result = check_sources(sources, None, GEOMETRY)
    assert [(one.source, one.reason) for one in result.problems] == [
        ("none", NOT_OPENED),
        ("empty", NO_ROWS),
        ("bad", NO_CONVERSATION),
    ]
    assert list(result.by_reason()) == [NOT_OPENED, NO_ROWS, NO_CONVERSATION]
    write_problems(result.problems, tmp_path / "out.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["source"] for line in lines] == list(names)
    assert lines[2].keys() == {"source", "file", "line", "where", "reason", "text", "dropped"}
