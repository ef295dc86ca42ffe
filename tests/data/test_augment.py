"""Augmentation of draws: keyed by seed, epoch, row and clip; lengths planned exactly; each source in its own way."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.data.rows import WriteManifest, audio_row, text_row, write_tone
from tests.data.test_loader import assert_same, batches_of
from voicetextblender.chat.render import Renderer
from voicetextblender.data.loader import DataConfig, Loader, build_loader
from voicetextblender.data.measure import Geometry
from voicetextblender.data.plan import Draw

SHARED = {"speed": {"factors": [0.8, 1.25]}, "gain": {"probability": 1.0}, "codec": {"codecs": ["mulaw"]}}


@pytest.fixture
def build(tmp_path: Path, write_manifest: WriteManifest, renderer: Renderer, geometry: Geometry) -> Any:
    """Builds a loader over 16 rows of one to three clips in `one`, the same rows in `two`, and text."""
    rows = []
    for number in range(16):
        for clip in range(1 + number % 3):
            write_tone(tmp_path / f"{number}.{clip}.flac", 0.0101 + 0.137 * (number + clip))
        rows.append(audio_row(number, *({"path": f"{number}.{clip}.flac"} for clip in range(1 + number % 3))))
    for name in ("one", "two"):
        write_manifest(rows).rename(tmp_path / f"{name}.jsonl")
    write_manifest([text_row(number) for number in range(9)]).rename(tmp_path / "text.jsonl")

    def build(augment: Any = SHARED, of_two: Any = "shared", seed: int = 3, **changes: Any) -> Loader:
        sources = [{"name": name, "path": str(tmp_path / f"{name}.jsonl")} for name in ("one", "two", "text")]
        sources[1]["augment"] = of_two
        sizes = {"conversations_per_step": 12, "max_tokens_per_microbatch": 300, "max_conversation_tokens": 110}
        values = {"sources": sources, "cache_dir": str(tmp_path / "cache"), "augment": augment, "num_workers": 0}
        return build_loader(DataConfig.model_validate(values | sizes | changes), renderer, geometry, seed)

    return build


def heard_by_draw(loader: Loader, steps: range) -> dict[Draw, list[torch.Tensor]]:
    found: dict[Draw, list[torch.Tensor]] = {}
    for step in steps:
        for rows, batch in zip(loader.plan.step(step), loader.load(step), strict=True):
            waveforms = iter(batch.waveforms)
            for draw in chain.from_iterable(rows):
                num_clips = int(loader.indexes[draw.source].num_clips[draw.row])
                found[draw] = [next(waveforms) for _ in range(num_clips)]
    return found


def test_planned_lengths_hold_at_every_speed(build: Any) -> None:
    loader = build()
    num_changed = 0
    for step in range(30):
        for rows, batch in zip(loader.plan.step(step), loader.load(step), strict=True):
            assert batch.token_ids.numel() <= loader.plan.config.max_tokens_per_microbatch
            draws = list(chain.from_iterable(rows))
            lengths = batch.conversation_ids[batch.conversation_ids >= 0].bincount().tolist()
            audio = batch.conversation_ids[batch.audio_mask].bincount(minlength=len(draws)).tolist()
            for draw, length, num_audio in zip(draws, lengths, audio, strict=True):
                planned, planned_audio = loader.plan.length(draw)
                index = loader.indexes[draw.source]
                num_clips = int(index.num_clips[draw.row])
                slack = planned - length
                assert slack == planned_audio - num_audio and planned <= 110
                assert slack == 0 if num_clips <= 1 else 0 <= slack <= num_clips + 1
                num_changed += length != index.num_tokens[draw.row]
    assert num_changed > 50


def test_what_is_heard_follows_from_seed_epoch_row_and_clip(build: Any) -> None:
    one, again, other = (heard_by_draw(build(seed=seed), range(8)) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for draw in one for a, b in zip(one[draw], again[draw], strict=True))
    assert one.keys() != other.keys()
    by_row: dict[tuple[int, int], list[list[torch.Tensor]]] = {}
    for draw, clips in one.items():
        by_row.setdefault((draw.source, draw.row), []).append(clips)
    repeated = [epochs for epochs in by_row.values() if len(epochs) > 1 and epochs[0]]
    different = [not torch.equal(epochs[0][0], epochs[1][0]) for epochs in repeated if len(epochs[0][0]) > 1000]
    assert len(different) > 10 and all(different)


def test_batches_do_not_depend_on_workers(build: Any) -> None:
    assert_same(batches_of(build(num_workers=2).steps(2, 6)), batches_of(build().steps(2, 6)))


def test_a_source_may_be_left_out_or_have_its_own_way(build: Any) -> None:
    plain = build(augment=None)
    assert plain.plan.speeds is None
    untouched = heard_by_draw(plain, range(6))
    for of_two, is_changed in (("shared", True), ("none", False), ({"gain": {"probability": 1.0}}, True)):
        heard = heard_by_draw(build(of_two=of_two), range(6))
        for draw, clips in heard.items():
            for clip, before in zip(clips, untouched[draw], strict=True):
                assert (
                    loudness(clip) != loudness(before) if draw.source == 0 or is_changed else torch.equal(clip, before)
                )
                if draw.source == 1 and of_two != "shared":
                    assert len(clip) == len(before)


def loudness(waveform: torch.Tensor) -> float:
    return float(np.sqrt(np.mean(waveform.numpy() ** 2)))


def test_augmentation_makes_no_new_index(build: Any) -> None:
    assert [index.stem for index in build().indexes] == [index.stem for index in build(augment=None).indexes]


def test_a_row_at_a_limit_keeps_its_speed(build: Any) -> None:
    slow = {"speed": {"factors": [0.5, 0.5]}}
    loader = build(augment=slow, max_clip_s=1.6)
    percents = {
        loader.plan.speeds.percent(source, 0, row) for source in (0, 1) for row in range(len(loader.indexes[source]))
    }
    assert percents == {50, 100}
    longest = max(len(clip) for clips in heard_by_draw(loader, range(4)).values() for clip in clips)
    assert 0.8 < longest / 16_000 <= 1.6


def test_rows_are_shown_as_they_are_heard(build: Any) -> None:
    loader = build()
    heard = heard_by_draw(loader, range(3))
    for draw, waveforms in heard.items():
        shown = loader.reader.show(draw)
        assert [clip.path for clip in shown.clips] == [
            clip.path for clip in loader.indexes[draw.source].read(draw.row).clips
        ]
        assert all(
            torch.equal(torch.from_numpy(clip.waveform), heard)
            for clip, heard in zip(shown.clips, waveforms, strict=True)
        )
