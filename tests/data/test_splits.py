"""Held-out splits: nothing that is measured on is trained on, whatever source or reader it comes through."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from tests.data.rows import audio_row, text_row, write_tone
from voicetextblender.chat.conversation import Conversation
from voicetextblender.chat.render import Renderer
from voicetextblender.data.held_out import HELD_OUT, held_out_side, measure_keys
from voicetextblender.data.index import SourceIndex
from voicetextblender.data.loader import DataConfig, Loader, build_loader
from voicetextblender.data.measure import Geometry
from voicetextblender.data.readers.config import SourceConfig
from voicetextblender.data.sources import open_source
from voicetextblender.data.splits import HELD_OUT_ELSEWHERE, ON_BOTH_SIDES
from voicetextblender.errors import DataError, RecipeError
from voicetextblender.evaluate.config import RowConfig
from voicetextblender.evaluate.rows import open_row, read_conversations

NUM_RECORDINGS = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty recordings, each of three segments in one manifest and whole in another; rows of two; written rows."""
    folder = tmp_path_factory.mktemp("splits")
    names = [f"clips/r{number}.wav" for number in range(NUM_RECORDINGS)]
    for name in names:
        write_tone(folder / name, 0.6)
    segments = [
        audio_row(3 * i + j, {"path": name, "start": 0.2 * j, "duration": 0.2}) | {"metadata": {"speaker": f"p{i % 8}"}}
        for i, name in enumerate(names)
        for j in range(3)
    ]
    write(folder / "segments.jsonl", segments)
    whole = [
        {"audio_filepath": str(folder / name), "duration": 0.6, "text": f"tone {i}", "speaker": f"p{i % 8}"}
        for i, name in enumerate(names)
    ]
    write(folder / "whole.json", whole)
    pairs = [audio_row(500 + i, {"path": names[i]}, {"path": names[i - 1]}) for i in range(NUM_RECORDINGS)]
    write(folder / "pairs.jsonl", pairs)
    write(folder / "text.jsonl", [text_row(number) for number in range(60)])
    return folder


@pytest.fixture(autouse=True)
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths count from the working directory, so the splits are the same wherever these tests run."""
    monkeypatch.chdir(folder)


def write(path: Path, rows: Sequence[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def make_config(folder: Path, *sources: dict[str, Any], **options: Any) -> DataConfig:
    full = [{**source, "path": str(folder / source["path"])} for source in sources]
    return DataConfig.model_validate(
        {"sources": full, "conversations_per_step": 4, "num_workers": 0, "cache_dir": str(folder / "cache"), **options}
    )


def load(config: DataConfig, renderer: Renderer, geometry: Geometry) -> dict[str, SourceIndex]:
    return {index.name: index for index in build_loader(config, renderer, geometry, seed=0).indexes}


def read(index: SourceIndex) -> list[Conversation]:
    return [index.read(row) for row in range(len(index))]


def held_out(config: DataConfig, name: str) -> list[Conversation]:
    source = open_row("r", RowConfig(source=name, metrics=("wer",)), config.all_sources, Path(config.cache_dir))
    return read_conversations("r", source, None)[0]


def recordings(conversations: Sequence[Conversation]) -> set[str]:
    return {str(clip.path) for conversation in conversations for clip in conversation.clips}


SEGMENTS = {"name": "segments", "path": "segments.jsonl"}
WHOLE = {"name": "whole", "path": "whole.json", "kind": "nemo", "language": "en"}
PAIRS = {"name": "pairs", "path": "pairs.jsonl"}
TEXT = {"name": "text", "path": "text.jsonl"}


def test_no_recording_stands_on_both_sides(folder: Path, renderer: Renderer, geometry: Geometry) -> None:
    for fraction in (0.1, 0.3, 0.6):
        rule = {"held_out": {"fraction": fraction}}
        config = make_config(folder, SEGMENTS | rule, WHOLE, PAIRS, TEXT)
        indexes = load(config, renderer, geometry)
        kept = held_out(config, "segments")
        measured, trained = recordings(kept), recordings([one for index in indexes.values() for one in read(index)])
        assert measured and trained and not measured & trained
        assert len(measured | trained) == NUM_RECORDINGS  # and none is lost
        assert len(kept) == 3 * len(measured)
        assert indexes["segments"].drops == {HELD_OUT: len(kept)}
        assert indexes["whole"].drops == {HELD_OUT_ELSEWHERE: len(measured)}
        assert len(indexes["pairs"]) + indexes["pairs"].drops[HELD_OUT_ELSEWHERE] == NUM_RECORDINGS
        assert indexes["text"].drops == {} and len(indexes["text"]) == 60
        assert sum(indexes["segments"].drops.values()) + len(indexes["segments"]) == indexes["segments"].num_rows


def test_sources_agree_and_a_larger_fraction_holds_out_more(folder: Path) -> None:
    seen: set[str] = set()
    for fraction in (0.05, 0.2, 0.5, 0.9):
        rule = {"held_out": {"fraction": fraction}}
        config = make_config(folder, SEGMENTS | rule, WHOLE | rule)
        measured = recordings(held_out(config, "whole"))
        assert recordings(held_out(config, "segments")) == measured
        assert seen < measured
        assert abs(len(measured) / NUM_RECORDINGS - fraction) < 0.2
        seen = measured


def test_rows_with_recordings_of_both_sides_are_used_on_neither(
    folder: Path, renderer: Renderer, geometry: Geometry
) -> None:
    config = make_config(folder, PAIRS | {"held_out": {"fraction": 0.5}})
    (index,) = load(config, renderer, geometry).values()
    kept = held_out(config, "pairs")
    assert not recordings(kept) & recordings(read(index))
    assert index.drops[ON_BOTH_SIDES] == NUM_RECORDINGS - len(kept) - len(index) > 0
    assert all(
        drop.text.endswith("Nothing is wrong with it: held_out of the sources says so.") for drop in index.dropped
    )


def test_speakers_are_held_out_whole(folder: Path, renderer: Renderer, geometry: Geometry) -> None:
    config = make_config(folder, SEGMENTS, WHOLE | {"held_out": {"fraction": 0.7, "by": "speaker"}})
    indexes = load(config, renderer, geometry)
    speakers = {one.metadata["speaker"] for one in held_out(config, "whole")}
    assert 0 < len(speakers) < 8
    assert len(held_out(config, "whole")) == 5 * len(speakers)
    for index in indexes.values():
        assert {one.metadata["speaker"] for one in read(index)} == {f"p{i}" for i in range(8)} - speakers


def test_a_list_names_recordings_in_any_of_three_ways(folder: Path, renderer: Renderer, geometry: Geometry) -> None:
    names = Path("names.txt")
    names.write_text("r3\nr5.wav\n\nclips/r7.wav\nnobody\n")
    config = make_config(folder, SEGMENTS | {"held_out": {"list": str(names)}}, WHOLE)
    assert sorted(Path(path).name for path in recordings(held_out(config, "segments"))) == [
        "r3.wav",
        "r5.wav",
        "r7.wav",
    ]
    assert load(config, renderer, geometry)["whole"].drops == {HELD_OUT_ELSEWHERE: 3}
    names.write_text("a/r3.wav\n")  # another folder
    with pytest.raises(DataError, match=r"source 'segments' held_out: no name in 'names.txt' is that of a recording; "):
        load(config, renderer, geometry)
    with pytest.raises(DataError, match=r"source 'segments': it holds out no row; at least 1 is needed\. Raise"):
        held_out(config, "segments")
    names.write_text("a4\na9\n")
    config = make_config(folder, SEGMENTS | {"held_out": {"list": str(names), "by": "row"}}, WHOLE)
    assert [one.id for one in held_out(config, "segments")] == ["a4", "a9"]
    assert load(config, renderer, geometry)["whole"].drops == {}


def test_ids_of_written_rows_mean_nothing_elsewhere(folder: Path, renderer: Renderer, geometry: Geometry) -> None:
    config = make_config(folder, TEXT | {"held_out": {"fraction": 0.3}}, {**TEXT, "name": "again"})
    indexes = load(config, renderer, geometry)
    assert indexes["text"].drops[HELD_OUT] == len(held_out(config, "text")) > 0
    assert indexes["again"].drops == {}


def test_a_source_of_weight_0_keeps_its_held_out_rows_from_others(
    folder: Path, renderer: Renderer, geometry: Geometry
) -> None:
    config = make_config(folder, SEGMENTS | {"held_out": {"fraction": 0.3}, "weight": 0}, WHOLE)
    (index,) = load(config, renderer, geometry).values()
    assert not recordings(read(index)) & recordings(held_out(config, "segments"))


def test_the_split_is_the_same_in_processes_and_after_pickling(
    folder: Path, renderer: Renderer, geometry: Geometry, tmp_path: Path
) -> None:
    source = open_source(SourceConfig(name="s", path=str(folder / "segments.jsonl")))
    alone, shared = (measure_keys(source, "recording", tmp_path / str(n), num_workers=n) for n in (1, 2))
    np.testing.assert_array_equal(alone.rows, shared.rows)
    np.testing.assert_array_equal(alone.keys, shared.keys)
    config = make_config(folder, SEGMENTS | {"held_out": {"fraction": 0.3}})
    (index,) = load(config, renderer, geometry).values()
    copy = pickle.loads(pickle.dumps(index))
    assert read(copy) == read(index) and copy.drops == index.drops


def test_the_split_moves_with_the_working_directory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kept(path: Path) -> set[str]:
        monkeypatch.chdir(path)
        config = SourceConfig.model_validate(
            {"name": "s", "path": "segments.jsonl", "held_out": {"fraction": 0.3}},
        )
        side = held_out_side(open_source(config, path / "cache"), path / "cache")
        return {Path(str(clip.path)).name for row in side.scan() for clip in side.parse(row).clips}

    before = kept(folder)
    moved = folder.rename(folder.with_name("moved"))
    try:
        assert kept(moved) == before
    finally:
        moved.rename(folder)


def test_what_cannot_be_split_is_told(folder: Path, renderer: Renderer, geometry: Geometry) -> None:
    config = make_config(folder, TEXT | {"held_out": {"fraction": 0.3, "by": "speaker"}})
    with pytest.raises(DataError, match=r"source 'text' held_out: 60 rows name no speaker; with by: speaker each row "):
        load(config, renderer, geometry)
    for bad in ({}, {"fraction": 0.1, "list": "x"}):
        with pytest.raises(ValidationError, match="it should have either fraction or list"):
            make_config(folder, TEXT | {"held_out": bad})
    with pytest.raises(RecipeError, match=r"evaluate\.rows\.r\.source: no source 'text' with held_out; there are none"):
        held_out(make_config(folder, TEXT), "text")


def test_groups_and_caps_reach_the_plan(folder: Path, renderer: Renderer, geometry: Geometry) -> None:
    heard = [source | {"path": str(folder / source["path"])} for source in (SEGMENTS, WHOLE | {"max_epochs": 1})]
    group = {"name": "heard", "weight": 3, "temperature": 1, "sources": heard}
    values = {"sources": [group, TEXT | {"path": str(folder / "text.jsonl")}], "cache_dir": str(folder / "cache")}
    loader: Loader = build_loader(DataConfig.model_validate(values), renderer, geometry, seed=0)
    blend = loader.plan.blend
    assert blend.names == ("segments", "whole", "text") and blend.groups == (("heard",), ("heard",), ())
    np.testing.assert_allclose(blend.shares, [0.75 * 120 / 160, 0.75 * 40 / 160, 0.25])
    assert list(blend.used_up) == ["whole"] and loader.plan.num_steps is None
    values["sources"] = [group | {"sources": [source | {"max_epochs": 2} for source in heard]}]
    plan = build_loader(DataConfig.model_validate(values), renderer, geometry, seed=0).plan
    assert plan.num_steps == 2 * 160 // 32
    plan.check_length(10)
    with pytest.raises(DataError, match=r"train\.steps: 11 steps; the data lasts 10 steps, by max_epochs\. Train so"):
        plan.check_length(11)


def test_names_are_told_apart_at_all_levels(folder: Path) -> None:
    group = {"name": "g", "sources": [{"name": "text", "path": "x"}]}
    with pytest.raises(ValidationError, match="it should have sources with different names, not text twice"):
        make_config(folder, TEXT, TEXT | {"name": "other"}, sources=[{"name": "text", "path": "y"}, group])
