"""Wordings through index and loader: another one each epoch, always within the tokens that the plan counts on."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pytest
from pydantic import ValidationError

from tests.data.rows import write_tone
from voicetextblender.audio.lengths import num_audio_tokens
from voicetextblender.chat.clips import read_clip
from voicetextblender.chat.render import Renderer
from voicetextblender.chat.slots import CLIP_SLOT, LANGUAGE_SLOT, QUESTION_SLOT
from voicetextblender.data.loader import DataConfig, Loader, build_loader
from voicetextblender.data.measure import Geometry
from voicetextblender.data.readers.config import SourceConfig
from voicetextblender.data.readers.spoken import _read_library
from voicetextblender.errors import DataError


def make_config(tmp_path: Path, **options: object) -> DataConfig:
    rows = []
    for number, (text, language, target) in enumerate(
        [("One.", "en", None), ("Eins.", "de", None), ("Deux.", "en", "fr"), ("Uno.", "it", "es"), ("?", None, None)]
    ):
        write_tone(tmp_path / f"{number}.flac", 0.3 + 0.2 * number)
        rows.append({"audio_filepath": f"{number}.flac", "text": text, "lang": language, "target_lang": target})
        rows.append({"audio_filepath": f"{number}.flac", "answer": text, "question": f"Is it {number}?"})
    (tmp_path / "m.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"name": "speech", "kind": "nemo", "path": str(tmp_path / "m.json"), **options}
    sizes = {"conversations_per_step": 10, "num_workers": 0, "cache_dir": str(tmp_path / "cache")}
    return DataConfig.model_validate({"sources": [source], **sizes})


@pytest.fixture
def loader(tmp_path: Path, renderer: Renderer, geometry: Geometry) -> Loader:
    return build_loader(make_config(tmp_path), renderer, geometry, seed=1)


def test_every_epoch_asks_in_other_words_and_resuming_in_the_same(loader: Loader) -> None:
    asked = defaultdict(set)
    for step in range(40):
        for batch in loader.load(step):
            batch.check()
            for number in range(len(batch.tasks)):
                words = tuple(batch.token_ids[batch.conversation_ids == number].tolist())
                asked[words[-8:]].add(words)
        again = Loader(loader.reader)
        for one, other in zip(loader.load(step), again.load(step), strict=True):
            assert one.token_ids.tolist() == other.token_ids.tolist()
    assert sorted(map(len, asked.values()))[-1] > 10


def test_the_index_tells_the_longest_and_the_shortest_wording(loader: Loader, renderer: Renderer) -> None:
    (index,) = loader.indexes
    for row, raw in enumerate(index.source.scan()):
        lengths = []
        for wording in index.source.wordings(raw):
            clips = [num_audio_tokens(len(read_clip(clip))) for clip in wording.clips]
            lengths.append(len(renderer.render(wording, clips).token_ids))
        assert index.num_tokens[row] == max(lengths)
        assert all(index.may_have(row, length) for length in lengths)
        assert not index.may_have(row, min(lengths) - 1) and not index.may_have(row, max(lengths) + 1)


def test_changed_audio_is_still_noticed(loader: Loader, tmp_path: Path) -> None:
    for number in range(5):
        write_tone(tmp_path / f"{number}.flac", 8.0)
    with pytest.raises(DataError, match=r"m.json:\d+: \d+ tokens; the index says \d+"):
        loader.load(0)


def test_another_prompt_makes_another_index(tmp_path: Path, renderer: Renderer, geometry: Geometry) -> None:
    stems = {
        build_loader(make_config(tmp_path, **options), renderer, geometry, seed=1).indexes[0].stem
        for options in ({}, {"prompts": {"transcription": ["{clip}!"]}}, {"language": "en"}, {"weight": 2})
    }
    assert len(stems) == 3


def test_the_library_is_well_formed() -> None:
    library = _read_library()
    needed = {
        "transcription": {CLIP_SLOT},
        "translation": {CLIP_SLOT, LANGUAGE_SLOT},
        "answering": {CLIP_SLOT, QUESTION_SLOT},
    }
    for task, slots in needed.items():
        for language, wordings in library[task].items():
            assert len(wordings) == len(set(wordings)) >= 4, (task, language)
            for wording in wordings:
                found = {slot for slot in (CLIP_SLOT, LANGUAGE_SLOT, QUESTION_SLOT) if wording.count(slot) == 1}
                assert found == slots, wording
    assert set(library["translation"]) == set(library["languages"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "jsonl", "tars": "x.tar"}, "it should have no tars: kind 'jsonl' takes none"),
        ({"kind": "nemo_tarred"}, "it should have tars, the tar files with the clips"),
        ({"kind": "qa", "delimiter": ";"}, "it should have no delimiter: kind 'qa' takes none"),
        ({"kind": "nemo", "prompts": {"transcription": ["Hi"]}}, "it should have {clip} once in every transcription"),
        ({"kind": "nemo", "prompts": {"answering": ["{clip}"]}}, "it should have {clip} and {question} once in every"),
    ],
)
def test_options_that_a_kind_does_not_take(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        SourceConfig.model_validate({"name": "train", "path": "x", **options})
    assert message in str(caught.value)
