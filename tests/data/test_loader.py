"""The loader: exact batches, the same from any number of workers, at any place, on any number of ranks."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from itertools import chain
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from tests.data.rows import WriteManifest, audio_row, text_row, write_tone
from voicetextblender.audio.waveform import read_waveform
from voicetextblender.batch import PADDING, Batch
from voicetextblender.chat.render import Renderer
from voicetextblender.data.loader import DataConfig, LoadedStep, Loader, build_loader
from voicetextblender.data.measure import Geometry
from voicetextblender.errors import DataError


@pytest.fixture
def config(tmp_path: Path, write_manifest: WriteManifest) -> DataConfig:
    """Speech (12 rows of one or two clips) and text (30 rows), 3 to 1, 8 conversations a step."""
    speech = []
    for number in range(12):
        write_tone(tmp_path / f"{number}.flac", 0.3 + 0.1 * number, 8_000 if number % 2 else 16_000, 100 + 10 * number)
        clips = [{"path": f"{number}.flac"}] * (1 + number % 2)
        speech.append(audio_row(number, *clips, task="mixed" if number % 2 else "transcription"))
    write_manifest(speech).rename(tmp_path / "speech.jsonl")
    write_manifest([text_row(number) for number in range(30)]).rename(tmp_path / "text.jsonl")
    return DataConfig.model_validate(
        {
            "sources": [
                {"name": "speech", "path": str(tmp_path / "speech.jsonl"), "weight": 3},
                {"name": "text", "path": str(tmp_path / "text.jsonl")},
                {"name": "off", "path": "nowhere.jsonl", "weight": 0},
            ],
            "conversations_per_step": 8,
            "max_tokens_per_microbatch": 200,
            "max_conversation_tokens": 100,
            "num_workers": 0,
            "cache_dir": str(tmp_path / "cache"),
        }
    )


@pytest.fixture
def loader(config: DataConfig, renderer: Renderer, geometry: Geometry) -> Loader:
    return build_loader(config, renderer, geometry, seed=5)


def with_workers(loader: Loader, num_workers: int) -> Loader:
    return Loader(loader.reader, num_workers)


def batches_of(steps: Iterator[LoadedStep]) -> list[list[Batch]]:
    return [loaded.batches for loaded in steps]


def assert_same(ours: list[list[Batch]], theirs: list[list[Batch]]) -> None:
    assert [len(batches) for batches in ours] == [len(batches) for batches in theirs]
    for one, other in zip(chain.from_iterable(ours), chain.from_iterable(theirs), strict=True):
        for field in fields(Batch):
            a, b = getattr(one, field.name), getattr(other, field.name)
            a, b = (a, b) if isinstance(a, tuple) else ((a,), (b,))
            assert len(a) == len(b)
            for x, y in zip(a, b, strict=True):
                assert type(x) is type(y)
                assert torch.equal(x, y) and x.dtype == y.dtype if isinstance(x, torch.Tensor) else x == y


def test_batches_hold_what_the_plan_names(loader: Loader) -> None:
    for step in range(3):
        microbatches, batches = loader.plan.step(step), loader.load(step)
        assert len(microbatches) == len(batches)
        for rows, batch in zip(microbatches, batches, strict=True):
            batch.check()
            assert batch.token_ids.numel() <= loader.plan.config.max_tokens_per_microbatch
            draws = list(chain.from_iterable(rows))
            lengths = [loader.indexes[draw.source].num_tokens[draw.row] for draw in draws]
            assert batch.conversation_ids[batch.conversation_ids != PADDING].bincount().tolist() == lengths
            assert batch.num_tokens == sum(lengths)
            for row, ids in zip(rows, batch.conversation_ids.tolist(), strict=True):
                assert [draws[number] for number in sorted(set(ids) - {PADDING})] == list(row)
            audio = [loader.indexes[draw.source].num_audio_tokens[draw.row] for draw in draws]
            assert batch.conversation_ids[batch.audio_mask].bincount(minlength=len(draws)).tolist() == audio
            conversations = [loader.indexes[draw.source].read(draw.row) for draw in draws]
            assert batch.tasks == tuple(conversation.task for conversation in conversations)
            clips = [clip for conversation in conversations for clip in conversation.clips]
            assert len(clips) == len(batch.waveforms) == len(batch.clip_keys)
            for clip, waveform in zip(clips, batch.waveforms, strict=True):
                assert torch.equal(waveform, torch.from_numpy(read_waveform(clip.path or "")))


@pytest.mark.parametrize("num_workers", [1, 2])
def test_batches_do_not_depend_on_workers(loader: Loader, num_workers: int) -> None:
    here = batches_of(loader.steps(3, 9))
    random_state = torch.random.get_rng_state()
    assert_same(batches_of(with_workers(loader, num_workers).steps(3, 9)), here)
    assert torch.equal(torch.random.get_rng_state(), random_state)
    assert_same(batches_of(with_workers(loader, num_workers).steps(7, 9)), here[4:])


def test_ranks_share_the_conversations_of_a_step(loader: Loader) -> None:
    def rows(batches: list[Batch]) -> Counter[tuple[int, ...]]:
        return Counter(
            tuple(batch.token_ids[batch.conversation_ids == number].tolist())
            for batch in batches
            for number in range(len(batch.tasks))
        )

    for step in range(4):
        whole = rows(loader.load(step))
        for num_ranks in (2, 3, 11):
            assert sum((rows(loader.load(step, rank, num_ranks)) for rank in range(num_ranks)), Counter()) == whole


def test_clip_keys_belong_to_seed_epoch_row_and_clip(
    loader: Loader, config: DataConfig, renderer: Renderer, geometry: Geometry
) -> None:
    def keys(loader: Loader, steps: range) -> list[int]:
        return [key for step in steps for batch in loader.load(step) for key in batch.clip_keys]

    four_epochs = keys(loader, range(8))  # 48 draws of the 12 rows, each epoch 18 clips
    assert len(four_epochs) == len(set(four_epochs)) == 72
    assert not set(four_epochs) & set(keys(build_loader(config, renderer, geometry, seed=6), range(4)))


def test_audio_that_changed_since_the_index_was_made_is_refused(loader: Loader, tmp_path: Path) -> None:
    for number in range(12):
        write_tone(tmp_path / f"{number}.flac", 2.5)
    with pytest.raises(
        DataError, match=r"speech.jsonl:\d+: \d+ tokens; the index says \d+\. The manifest or its audio"
    ):
        batches_of(loader.steps(0, 1))


def test_loader_pickles_and_is_light(loader: Loader) -> None:
    pickled = pickle.dumps((loader.plan, loader.indexes, loader.reader.geometry))
    assert len(pickled) < 5000
    copy = pickle.loads(pickle.dumps(loader))
    assert_same(batches_of(copy.steps(2, 4)), batches_of(loader.steps(2, 4)))


def test_sources_need_different_names(config: DataConfig) -> None:
    sources = [config.sources[0].model_dump()] * 2
    with pytest.raises(ValidationError, match="it should have sources with different names, not speech twice"):
        DataConfig.model_validate({"sources": sources})


def test_real_recordings_are_read_whole(
    shared_data: Path, write_manifest: WriteManifest, renderer: Renderer, geometry: Geometry, tmp_path: Path
) -> None:
    files = sorted(shared_data.rglob("*.flac"))[:5] or sorted(shared_data.rglob("*.wav"))[:5]
    path = write_manifest([audio_row(i, {"path": str(file)}) for i, file in enumerate(files)])
    config = DataConfig.model_validate(
        {
            "sources": [{"name": "real", "path": str(path)}],
            "conversations_per_step": len(files),
            "cache_dir": str(tmp_path / "cache"),
        }
    )
    loader = build_loader(config, renderer, geometry, seed=0)
    waveforms = [waveform for batch in loader.load(0) for waveform in batch.waveforms]
    assert sorted(len(read_waveform(file)) for file in files) == sorted(len(waveform) for waveform in waveforms)
