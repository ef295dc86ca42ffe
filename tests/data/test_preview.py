"""The preview: its figures are those of the plan, counted in another way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.data.rows import WriteManifest, audio_row, text_row, write_tone
from voicetextblender.chat.render import Renderer
from voicetextblender.data.blend import Blend
from voicetextblender.data.index import SourceIndex, open_index
from voicetextblender.data.measure import Geometry, Limits
from voicetextblender.data.packing import conversation_cost
from voicetextblender.data.plan import Plan, PlanConfig
from voicetextblender.data.preview import choose_rows, count_overlap, count_repeats, simulate
from voicetextblender.data.preview_page import Preview, render_preview
from voicetextblender.data.readers.config import SourceConfig
from voicetextblender.data.sources import open_source
from voicetextblender.data.stats import measure_stats
from voicetextblender.data.survey import Survey, survey_indexes

EVIL = "<script>alert('x')</script>&\"</style>"


@pytest.fixture
def index(write_manifest: WriteManifest, renderer: Renderer, geometry: Geometry, tmp_path: Path) -> SourceIndex:
    """Rows of 0 to 2 clips, of three kinds."""
    for number in range(4):
        write_tone(tmp_path / f"{number}.flac", 0.3 + 0.4 * number)
    clips = [{"path": f"{number}.flac", "transcript": f"tone {number}"} for number in range(4)]
    rows = [text_row(number, "Yes. " * (1 + number % 3)) for number in range(9)]
    rows += [audio_row(number, *clips[number % 3 : number % 3 + 1 + number % 2]) for number in range(9, 16)]
    rows += [audio_row(16, clips[3], task=EVIL)]
    source = open_source(SourceConfig(name="all", path=str(write_manifest(rows))))
    return open_index(source, renderer, geometry, Limits(2048, 40.0), tmp_path / "cache")


@pytest.fixture
def plan(index: SourceIndex) -> Plan:
    config = PlanConfig(conversations_per_step=12, max_tokens_per_microbatch=120, max_conversation_tokens=120)
    return Plan([index], Blend({"all": 1.0}, {"all": len(index)}, seed=5), config)


@pytest.mark.parametrize("num_ranks", [1, 3])
def test_simulation_agrees_with_the_plan(plan: Plan, index: SourceIndex, geometry: Geometry, num_ranks: int) -> None:
    found = simulate(
        plan, [index], survey_indexes([index]), geometry.num_audio_tokens, num_steps=5, num_ranks=num_ranks
    )
    assert found.steps == (0, 1, 2, 3, 4)
    steps = [[plan.step(step, rank, num_ranks) for rank in range(num_ranks)] for step in range(5)]
    microbatches = [rows for ranks in steps for one in ranks for rows in one]
    widths = [[sum(plan.length(draw)[0] for draw in row) for row in rows] for rows in microbatches]
    used = sum(map(sum, widths))
    assert found.padding == pytest.approx(1 - used / sum(len(rows) * max(rows, default=0) for rows in widths))
    assert found.unused_budget == pytest.approx(1 - used / (120 * len(microbatches)))
    assert found.tokens_per_step.mean == pytest.approx(used / 5)
    assert found.microbatches_per_rank.most == max(len(ranks[0]) for ranks in steps)
    costs = [
        [sum(conversation_cost(*plan.length(draw)) for rows in one for row in rows for draw in row) for one in ranks]
        for ranks in steps
    ]
    assert found.imbalance.most == pytest.approx(max(max(step) / np.mean(step) - 1 for step in costs))
    assert found.encoder_padding is not None and 0 <= found.encoder_padding < 0.5
    assert sum(share for share, _ in found.shares.values()) == pytest.approx(1.0)
    assert sum(learned for _, learned in found.shares.values()) == pytest.approx(1.0)


def test_a_plan_without_clips_has_no_encoder(
    write_manifest: WriteManifest, renderer: Renderer, geometry: Geometry, tmp_path: Path
) -> None:
    source = open_source(SourceConfig(name="text", path=str(write_manifest([text_row(1), text_row(2)]))))
    index = open_index(source, renderer, geometry, Limits(2048, 40.0), tmp_path / "cache")
    plan = Plan([index], Blend({"text": 1.0}, {"text": 2}, seed=0), PlanConfig(conversations_per_step=1))
    found = simulate(plan, [index], survey_indexes([index]), geometry.num_audio_tokens, num_steps=1000, num_ranks=2)
    assert found.encoder_padding is None
    assert (len(found.steps), found.steps[0], found.steps[-1]) == (64, 0, 999)
    assert found.imbalance.mean == pytest.approx(1.0)  # one rank of two has all the work
    page = render(plan, [index], geometry, steps=3)
    assert page.count("<svg") == 2


def survey_of(words: list[int], exact: list[int], spoken: list[int], clips: list[list[int]]) -> Survey:
    columns = [np.array(column, np.uint64) for column in (words, exact, spoken)]
    num_clips = np.array([len(row) for row in clips], np.int64)
    flat = np.array([clip for row in clips for clip in row], np.uint64)
    names = np.array(["text"] * len(words))
    return Survey(names, names, *columns, num_clips, np.ones(len(flat), np.int64), flat)


class Named:
    """As much of an index as repeats need."""

    def __init__(self, name: str, size: int) -> None:
        self.name, self.size = name, size

    def __len__(self) -> int:
        return self.size


def test_repeats_are_counted_across_sources() -> None:
    first = survey_of([1, 2, 1, 3], [1, 2, 9, 3], [0] * 4, [[]] * 4)
    second = survey_of([3, 4, 2], [3, 4, 8], [0] * 3, [[]] * 3)
    found = count_repeats([Named("a", 4), Named("b", 3)], [first, second])  # type: ignore[list-item]
    assert [(one.name, one.num_rows, one.same_words, one.same_clips) for one in found] == [
        ("a", 4, 1, 0),
        ("b", 3, 2, 1),
    ]


def test_overlap_of_words_speech_and_clips() -> None:
    training = [survey_of([1, 2], [1, 2], [0, 7], [[], [70, 71]]), survey_of([3], [3], [8], [[80]])]
    held_out = survey_of([1, 4, 5, 6], [1, 4, 5, 6], [0, 8, 9, 0], [[], [81], [70, 71], [80, 90]])
    (found,) = count_overlap(training, {"row": held_out})
    assert (found.name, found.num_rows) == ("row", 4)
    assert (found.same_words, found.same_speech, found.same_clips, found.num_unread) == (1, 1, 2, 0)


def test_rows_to_look_at_are_the_first_of_each_kind(plan: Plan, index: SourceIndex) -> None:
    surveys = survey_indexes([index])
    rows = choose_rows(plan, [index], surveys, 2, lambda draw: index.read(draw.row))
    assert [row.kind for row in rows] == ["text"] * 2 + ["transcription"] * 2 + [EVIL] * 2
    draws = [draw for step in range(3) for draw in plan.draws(step)]
    texts = [index.where(draw.row) for draw in draws if surveys[0].task[draw.row] == "text"]
    assert [row.where for row in rows[:2]] == texts[:2]
    assert all(row.conversation.task == row.kind for row in rows)


def render(
    plan: Plan, indexes: list[SourceIndex], geometry: Geometry, steps: int, surveys: tuple[Survey, ...] = ()
) -> str:
    surveys = surveys or survey_indexes(indexes)
    preview = Preview(
        name="tiny",
        stats=measure_stats(indexes, surveys, plan.blend, plan.config.conversations_per_step, steps),
        simulation=simulate(plan, indexes, surveys, geometry.num_audio_tokens, num_steps=steps),
        repeats=count_repeats(indexes, surveys),
        overlaps=count_overlap(surveys, {"held": surveys[0]}),
        rows=choose_rows(plan, indexes, surveys, 1, lambda draw: indexes[draw.source].read(draw.row)),
        limits={"data.max_clip_s": 40.0},
    )
    return render_preview(preview, indexes, surveys)


def test_page_is_self_contained_escaped_and_the_same_again(plan: Plan, index: SourceIndex, geometry: Geometry) -> None:
    page = render(plan, [index], geometry, steps=4)
    assert page == render(plan, [index], geometry, steps=4)
    assert "<script" not in page and "&lt;script&gt;" in page
    assert page.count("</style>") == 1
    assert page.count("<svg") == 3 and page.count("<audio") == 2
    assert "What tiny will see" in page


def test_a_clip_that_cannot_be_read_is_told_on_the_page(
    plan: Plan, index: SourceIndex, geometry: Geometry, tmp_path: Path
) -> None:
    surveys = survey_indexes([index])
    (tmp_path / "3.flac").write_bytes(b"broken")
    assert "cannot be read by libsndfile" in render(plan, [index], geometry, 1, surveys)
