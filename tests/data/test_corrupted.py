"""Damaged files and damaged lines: no crash, no hang, every one counted with a reason, every clean row seen."""

from __future__ import annotations

import json
import random
import resource
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.data.corrupt import damage_files, damage_line
from tests.data.rows import audio_row, write_tone
from voicetextblender.chat.render import Renderer
from voicetextblender.data.check import CheckedSource, check_sources
from voicetextblender.data.loader import DataConfig, Loader, build_loader
from voicetextblender.data.measure import Geometry, Limits

NUM_CLEAN = 60
SIZES = (120, pytest.param(1000, marks=pytest.mark.slow))
LIMITS = Limits(400, 20.0)


@pytest.fixture
def clean(tmp_path: Path) -> list[dict[str, Any]]:
    rows = []
    for number in range(NUM_CLEAN):
        write_tone(tmp_path / f"clean{number}.flac", 0.3 + 0.01 * number)
        rows.append(audio_row(number, {"path": f"clean{number}.flac"}))
    return rows


def mix(path: Path, damaged: list[bytes], clean: list[dict[str, Any]]) -> set[int]:
    """Writes a manifest with the clean rows at random places; gives the numbers of their lines."""
    lines = [(line, False) for line in damaged] + [(json.dumps(row).encode(), True) for row in clean]
    random.Random(1).shuffle(lines)
    path.write_bytes(b"".join(line + b"\n" for line, _ in lines))
    return {number for number, (_, is_clean) in enumerate(lines, start=1) if is_clean}


def open_loader(path: Path, renderer: Renderer, geometry: Geometry, num_workers: int) -> Loader:
    values = {
        "sources": [{"name": "all", "path": str(path)}],
        "conversations_per_step": 16,
        "max_tokens_per_microbatch": 1000,
        "max_conversation_tokens": LIMITS.max_conversation_tokens,
        "max_clip_s": LIMITS.max_clip_s,
        "on_bad_row": "skip",
        "num_workers": num_workers,
        "cache_dir": str(path.parent / "cache"),
    }
    return build_loader(DataConfig.model_validate(values), renderer, geometry, seed=0)


def read_an_epoch(loader: Loader) -> tuple[set[int], dict[int, str]]:
    """Lines that were read as planned, and lines that could not be read, with the reason."""
    (index,) = loader.indexes
    num_steps = -(-len(index) // 16)
    planned = {draw.row for step in range(num_steps) for draw in loader.plan.draws(step) if draw.epoch == 0}
    failures = [failure for loaded in loader.steps(0, num_steps) for failure in loaded.failures]
    failed = {
        failure.key[2]: failure.cause.reason for failure in failures if failure.key[1] == 0 and failure.is_planned
    }
    assert planned == set(range(len(index)))

    def line(row: int) -> int:
        return int(index.where(row).rsplit(":", 1)[1])

    return {line(row) for row in planned - failed.keys()}, {line(row): reason for row, reason in failed.items()}


def check(path: Path, renderer: Renderer, geometry: Geometry) -> dict[int, str]:
    """Reasons by line, of `vtb data check --decode`."""
    config = DataConfig.model_validate({"sources": [{"name": "all", "path": str(path)}]}).sources[0]
    result = check_sources(
        [CheckedSource(config, LIMITS)], renderer, geometry, decode=True, cache_dir=path.parent / "cache",
        time_limit_s=20,
    )  # fmt: skip
    return {
        problem.line: problem.reason for problem in result.problems if problem.reason != "an id that was used before"
    }


@pytest.mark.parametrize("num_damaged", SIZES)
@pytest.mark.parametrize("num_workers", [0, 2])
def test_damaged_files(
    tmp_path: Path,
    clean: list[dict[str, Any]],
    renderer: Renderer,
    geometry: Geometry,
    num_workers: int,
    num_damaged: int,
) -> None:
    files = damage_files(tmp_path / "damaged", num_damaged, seed=num_workers)
    rows = []
    for number, (_, file) in enumerate(files):
        known_length = {"duration": 0.5} if number // 6 % 2 else {}
        rows.append(audio_row(number + NUM_CLEAN, {"path": str(file), **known_length}))
    clean_lines = mix(tmp_path / "all.jsonl", [json.dumps(row).encode() for row in rows], clean)
    loader = open_loader(tmp_path / "all.jsonl", renderer, geometry, num_workers)
    read, failed = read_an_epoch(loader)
    dropped = {drop.line: drop.reason for drop in loader.indexes[0].dropped}
    assert not failed.keys() & dropped.keys() and len(read) + len(failed) + len(dropped) == num_damaged + NUM_CLEAN
    assert clean_lines <= read
    assert check(tmp_path / "all.jsonl", renderer, geometry).keys() == failed.keys() | dropped.keys()
    kinds = {json.loads(line)["messages"][0]["content"][1]["path"]: number
             for number, line in enumerate((tmp_path / "all.jsonl").read_text().splitlines(), start=1)}  # fmt: skip
    still_read = Counter(kind for kind, file in files if kinds[str(file)] in read)
    assert not still_read["zero length"] and not still_read["not finite"]
    assert sum(still_read.values()) < num_damaged / 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4e6  # KB


@pytest.mark.parametrize("num_damaged", SIZES)
def test_damaged_lines(
    tmp_path: Path, clean: list[dict[str, Any]], renderer: Renderer, geometry: Geometry, num_damaged: int
) -> None:
    chance = random.Random(5)
    damaged = [damage_line(clean[number % NUM_CLEAN], chance) for number in range(num_damaged)]
    clean_lines = mix(tmp_path / "all.jsonl", damaged, clean)
    loader = open_loader(tmp_path / "all.jsonl", renderer, geometry, num_workers=0)
    read, failed = read_an_epoch(loader)
    dropped = {drop.line: drop.reason for drop in loader.indexes[0].dropped}
    num_blank = sum(not line.strip() for line in damaged)
    assert len(read) + len(failed) + len(dropped) == num_damaged + NUM_CLEAN - num_blank
    assert clean_lines <= read
    assert check(tmp_path / "all.jsonl", renderer, geometry).keys() == failed.keys() | dropped.keys()
    assert len(dropped) > num_damaged / 2
