"""Clips that cannot be read while training: replaced by a rule, the same from any number of workers, and told."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.rows import WriteManifest, audio_row, write_tone
from tests.data.test_loader import assert_same, batches_of
from voicetextblender.audio.waveform import Allocate
from voicetextblender.chat.conversation import AudioPart
from voicetextblender.chat.render import Renderer
from voicetextblender.data import reading
from voicetextblender.data.loader import DataConfig, Loader, build_loader
from voicetextblender.data.measure import DIED, NO_AUDIO, STUCK, UNEXPECTED, Geometry
from voicetextblender.data.reading import Cause, Failure
from voicetextblender.errors import DataError

NUM_ROWS = 24
real_read = reading.read_clip


@pytest.fixture
def build(tmp_path: Path, write_manifest: WriteManifest, renderer: Renderer, geometry: Geometry) -> Any:
    """Builds a loader over 24 rows of one clip, each longer than the one before, 8 a step: an epoch is 3 steps."""
    for number in range(NUM_ROWS):
        write_tone(tmp_path / f"{number}.flac", 0.2 + 0.1 * number)
    path = write_manifest([audio_row(number, {"path": f"{number}.flac"}) for number in range(NUM_ROWS)])

    def build(num_workers: int = 0, clip_timeout_s: float = 30.0) -> Loader:
        values = {
            "sources": [{"name": "speech", "path": str(path)}],
            "conversations_per_step": 8,
            "max_tokens_per_microbatch": 200,
            "max_conversation_tokens": 100,
            "num_workers": num_workers,
            "clip_timeout_s": clip_timeout_s,
            "cache_dir": str(tmp_path / "cache"),
        }
        return build_loader(DataConfig.model_validate(values), renderer, geometry, seed=5)

    return build


def misread(monkeypatch: pytest.MonkeyPatch, *numbers: int, how: Callable[[], Any]) -> None:
    """Let something happen instead of reading the clips of these rows, in this process and those forked from it."""

    def read(clip: AudioPart, where: str, allocate: Allocate) -> np.ndarray:
        if int(Path(clip.path or "").stem) in numbers:
            how()
        return real_read(clip, where, allocate)

    monkeypatch.setattr(reading, "read_clip", read)


def hang() -> None:
    ctypes.CDLL(None).sleep(60)  # in C: no signal, no exception ends it


def failures_of(loader: Loader, stop: int) -> list[Failure]:
    return [failure for loaded in loader.steps(0, stop) for failure in loaded.failures]


def test_a_missing_clip_is_replaced_counted_and_named(build: Any, tmp_path: Path) -> None:
    loader = build()
    planned = [draw for step in range(3) for draw in loader.plan.draws(step)]
    (tmp_path / "20.flac").unlink()
    loaded = list(loader.steps(0, 3))
    (failure,) = [failure for one in loaded for failure in one.failures]
    assert failure.is_planned and failure.source == "speech" and failure.key in [draw[:3] for draw in planned]
    assert failure.cause.reason == NO_AUDIO
    assert failure.cause.text.startswith(f"{tmp_path}/train.jsonl:21: audio '{tmp_path}/20.flac' does not exist; ")
    assert failure.where.endswith("train.jsonl:21")
    assert failure.replaced_by is not None and failure.replaced_by != failure.where
    assert sum(len(batch.tasks) for one in loaded for batch in one.batches) == 24
    assert [one.num_conversations for one in loaded] == [8, 8, 8]


def test_a_replacement_takes_no_more_room_and_the_rest_stays(build: Any, tmp_path: Path) -> None:
    loader = build()
    before = list(loader.steps(0, 3))
    for number in (2, 9, 20, 23):
        (tmp_path / f"{number}.flac").unlink()
    after = list(loader.steps(0, 3))
    lengths = loader.indexes[0].num_tokens
    for failure in (failure for one in after for failure in one.failures if failure.is_planned):
        assert failure.replaced_by is not None
        assert lengths[int(failure.replaced_by.rsplit(":", 1)[1]) - 1] <= lengths[failure.key[2]]
    assert sum(failure.is_planned for one in after for failure in one.failures) == 4
    for one, other in zip(before, after, strict=True):
        rows, others = (Counter(row_texts(loaded.batches)) for loaded in (one, other))
        assert (rows - others).total() == sum(failure.is_planned for failure in other.failures)
        assert (one.row_hash == other.row_hash) == (not other.failures)
        assert all(batch.token_ids.numel() <= 200 for batch in other.batches)


def row_texts(batches: Any) -> list[tuple[int, ...]]:
    return [
        tuple(batch.token_ids[batch.conversation_ids == number].tolist())
        for batch in batches
        for number in range(len(batch.tasks))
    ]


@pytest.mark.parametrize("num_workers", [1, 3])
def test_replacements_do_not_depend_on_workers(build: Any, tmp_path: Path, num_workers: int) -> None:
    build()
    for number in range(0, NUM_ROWS, 3):
        (tmp_path / f"{number}.flac").unlink()
    here = list(build().steps(0, 7))
    there = list(build(num_workers).steps(0, 7))
    assert_same([one.batches for one in there], [one.batches for one in here])
    assert [one[1:] for one in there] == [one[1:] for one in here]
    assert_same(batches_of(build(num_workers).steps(4, 7)), [one.batches for one in here[4:]])


def test_ranks_read_what_one_reads_alone(build: Any, tmp_path: Path) -> None:
    loader = build()
    for number in (3, 4, 17):
        (tmp_path / f"{number}.flac").unlink()
    alone = list(loader.steps(0, 6))
    for num_ranks in (2, 3):
        shares = [list(loader.steps(0, 6, rank, num_ranks)) for rank in range(num_ranks)]
        for one, *parts in zip(alone, *shares, strict=True):
            assert one.row_hash == sum(part.row_hash for part in parts)
            assert one.num_conversations == sum(part.num_conversations for part in parts)
            failures = chain.from_iterable(part.failures for part in parts)
            assert Counter(failures) == Counter(one.failures)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_clip_that_hangs_is_given_up(build: Any, monkeypatch: pytest.MonkeyPatch, num_workers: int) -> None:
    misread(monkeypatch, 7, 19, how=hang)
    started = time.monotonic()
    loaded = list(build(num_workers, clip_timeout_s=0.5).steps(0, 3))
    assert time.monotonic() - started < 15
    failures = [failure for one in loaded for failure in one.failures if failure.is_planned]
    assert [failure.cause.reason for failure in failures] == [STUCK, STUCK]
    assert sorted(failure.where.rsplit(":", 1)[1] for failure in failures) == ["20", "8"]
    assert "train.jsonl:8: it took longer than data.clip_timeout_s, 0.5 s; " in "".join(
        failure.cause.text for failure in failures
    )
    assert sum(len(batch.tasks) for one in loaded for batch in one.batches) == 24


def test_what_hangs_is_replaced_as_what_is_missing(build: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    build()
    with monkeypatch.context() as patched:
        misread(patched, 7, 19, how=hang)
        hanging = [batches_of(build(workers, clip_timeout_s=0.5).steps(0, 3)) for workers in (0, 1, 2)]
    for number in (7, 19):
        (tmp_path / f"{number}.flac").unlink()
    missing = batches_of(build().steps(0, 3))
    for batches in hanging:
        assert_same(batches, missing)


def test_a_decoder_that_ends_its_process_is_given_up(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    misread(monkeypatch, 11, how=lambda: os.kill(os.getpid(), signal.SIGKILL))
    (failure,) = failures_of(build(num_workers=2), 3)
    assert failure.cause.reason == DIED and "reading it ended the process (exit code -9)" in failure.cause.text


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_that_nobody_foresaw_is_a_failure_of_that_clip(
    build: Any, monkeypatch: pytest.MonkeyPatch, num_workers: int
) -> None:
    def divide() -> None:
        raise ZeroDivisionError("in the decoder")

    misread(monkeypatch, 11, how=divide)
    (failure,) = failures_of(build(num_workers), 3)
    assert failure.cause.reason == UNEXPECTED
    assert "train.jsonl:12: ZeroDivisionError: in the decoder; a clip is read or refused" in failure.cause.text


def test_draws_that_are_known_are_not_tried(build: Any) -> None:
    loader = build()
    draw = loader.plan.draws(1)[3]
    known = {draw[:3]: Cause("was so before", "the whole story")}
    (failure,) = [failure for one in loader.steps(0, 6, known=known) for failure in one.failures]
    assert failure.key == draw[:3] and failure.cause == known[draw[:3]]


def test_a_conversation_is_left_out_where_nothing_takes_its_place(build: Any, tmp_path: Path) -> None:
    loader = build()
    for number in range(NUM_ROWS):
        (tmp_path / f"{number}.flac").unlink()
    loaded = next(loader.steps(0, 1))
    assert loaded.batches == [] and loaded.num_conversations == 8 and loaded.row_hash == 0
    planned = [failure for failure in loaded.failures if failure.is_planned]
    assert len(planned) == 8 and all(failure.replaced_by is None for failure in planned)
    assert len(loaded.failures) <= 8 * (1 + reading.MAX_REPLACEMENTS)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_changed_manifest_stops_the_loader(build: Any, tmp_path: Path, num_workers: int) -> None:
    loader = build(num_workers)
    lines = (tmp_path / "train.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "train.jsonl").write_text("".join(["x" * (len(lines[0]) - 1) + "\n", *lines[1:]]))
    with pytest.raises(DataError, match=r"train.jsonl:1: no JSON at column 1 "):
        list(loader.steps(0, 3))


def test_a_process_that_ends_while_it_reads_nothing_is_an_error(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Loader, "_make_arrays", lambda *arguments, **named: os._exit(3))
    with pytest.raises(DataError, match=r"a loader process: ended \(exit code 3\); it runs until the last step"):
        list(build(num_workers=1).steps(0, 3))


def test_a_mistake_of_ours_is_told_with_its_traceback(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading.RowReader, "row_hash", lambda *arguments: 1 // 0)
    with pytest.raises(RuntimeError, match=r"(?s)in a loader process:.*ZeroDivisionError"):
        list(build(num_workers=1).steps(0, 3))


def test_processes_end_when_steps_are_no_longer_asked_for(build: Any) -> None:
    import multiprocessing

    steps = build(num_workers=2).steps(0, 100)
    next(steps)
    assert len(multiprocessing.active_children()) == 2
    steps.close()
    assert not multiprocessing.active_children()
