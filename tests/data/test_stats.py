"""Surveys and figures: what the rows are, how often they are drawn, which are the same."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from tests.data.rows import WriteManifest, audio_row, text_row, write_tone
from voicetextblender.chat.render import Renderer
from voicetextblender.data import survey as survey_module
from voicetextblender.data.blend import Blend
from voicetextblender.data.index import SourceIndex, open_index
from voicetextblender.data.measure import Geometry, Limits
from voicetextblender.data.readers.config import SourceConfig
from voicetextblender.data.sources import open_source
from voicetextblender.data.stats import count_draws, measure_stats
from voicetextblender.data.survey import normalise, survey_indexes, survey_source

LIMITS = Limits(2048, 40.0)


@pytest.fixture
def index(write_manifest: WriteManifest, renderer: Renderer, geometry: Geometry, tmp_path: Path) -> SourceIndex:
    """Two text rows of the same words; a row of two clips; the same words said in other clips, and not transcribed."""
    write_tone(tmp_path / "a.flac", 1.0)
    write_tone(tmp_path / "b.flac", 2.0)
    first, second = ({"path": f"{name}.flac", "transcript": "Three!"} for name in "ab")
    rows = [
        text_row(1) | {"language": "en"},
        text_row(1, "YES!") | {"id": "again"},
        audio_row(1, first, first),
        audio_row(1, second, first),
        audio_row(1, {"path": "a.flac"}, task="mixed"),
    ]
    source = open_source(SourceConfig(name="all", path=str(write_manifest(rows))))
    return open_index(source, renderer, geometry, LIMITS, tmp_path / "cache")


def test_survey_tells_what_rows_are(index: SourceIndex) -> None:
    (survey,) = survey_indexes([index])
    assert survey.task.tolist() == ["text", "text", "transcription", "transcription", "mixed"]
    assert survey.language.tolist() == ["en", "-", "-", "-", "-"]
    assert survey.clip_samples.tolist() == [16_000, 16_000, 32_000, 16_000, 16_000]
    assert survey.words[0] == survey.words[1] and survey.exact[0] == survey.exact[1]
    assert survey.words[2] == survey.words[3] and survey.exact[2] != survey.exact[3]
    assert len(set(survey.words.tolist())) == 3
    assert (survey.spoken != 0).tolist() == [False, False, True, True, False]
    assert len(set(survey.clips.tolist())) == 2


def test_survey_is_the_same_in_processes_and_without_an_index(index: SourceIndex) -> None:
    (alone,) = survey_indexes([index])
    for stored in index.stem.parent.glob("survey-*"):
        stored.unlink()
    (shared,) = survey_indexes([index], num_workers=2)
    bare = survey_source(index.source)
    for name in ("task", "language", "words", "exact", "spoken", "clips"):
        np.testing.assert_array_equal(getattr(alone, name), getattr(shared, name))
        np.testing.assert_array_equal(getattr(alone, name), getattr(bare, name))
    assert len(survey_source(index.source, max_rows=2)) == 2


def test_survey_is_read_once(index: SourceIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    (first,) = survey_indexes([index])
    shorter = SourceIndex(index.source, index.stem, Limits(2048, 1.5))
    (other,) = survey_indexes([shorter])
    assert (len(first), len(other)) == (5, 4)
    monkeypatch.setattr(survey_module, "_survey_range", lambda *arguments: 1 // 0)
    for stored, made in zip(survey_indexes([index, shorter]), (first, other), strict=True):
        for field in fields(made):
            np.testing.assert_array_equal(getattr(stored, field.name), getattr(made, field.name))
    index.source.config = index.source.config.model_copy(update={"task": "mixed"})
    with pytest.raises(ZeroDivisionError):
        survey_indexes([index])


def test_survey_counts_what_it_cannot_read(write_manifest: WriteManifest) -> None:
    survey = survey_source(open_source(SourceConfig(name="all", path=str(write_manifest(["{\n", text_row(1)])))))
    assert (len(survey), survey.num_unread) == (1, 1)


@pytest.mark.parametrize("text", ["What's  that?", "WHAT S THAT", "what's\tthat!!", "\uff37hat's that"])
def test_normalise_leaves_words_alone(text: str) -> None:
    assert normalise(text) == "what s that"


def test_groups_add_up(index: SourceIndex) -> None:
    blend = Blend({"all": 3.0}, {"all": len(index)}, seed=0)
    stats = measure_stats([index], survey_indexes([index]), blend, conversations_per_step=4, num_steps=10)
    (source,) = stats.sources
    assert (source.num_rows, source.weight, source.epochs, source.drops) == (5, 3.0, 8.0, {})
    assert source.hours * 3600 == pytest.approx(6.0)
    assert source.longest_clip_s == 2.0
    assert source.longest_num_tokens == max(index.num_tokens)
    for groups in (stats.kinds, stats.languages):
        assert sum(group.num_rows for group in groups) == 5
        assert sum(group.num_tokens for group in groups) == source.num_tokens == index.num_tokens.sum()
        assert sum(group.share for group in groups) == pytest.approx(1.0)
        assert sum(group.supervised_share for group in groups) == pytest.approx(1.0)
    text = stats.kinds[0]
    assert (text.name, text.share, text.longest_clip_s) == ("text", pytest.approx(0.4), 0.0)
    assert text.supervised_share == pytest.approx(index.num_supervised[:2].sum() / index.num_supervised.sum())


def test_draws_are_counted_up_to_any_number() -> None:
    blend = Blend({"a": 1.0, "b": 2.0}, {"a": 5, "b": 7}, seed=3)
    for num_draws in (0, 1, 63, 64, 65, 500):
        counted = np.bincount(blend.draws(0, num_draws).source, minlength=2)
        assert count_draws(blend, num_draws).tolist() == counted.tolist()
