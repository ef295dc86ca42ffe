"""The search for the largest microbatch: what it tries, what it simulates, and that it survives what does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.tiny import make_recipe
from voicetextblender.audio.lengths import FASTCONFORMER_TOKENS
from voicetextblender.cli.main import app
from voicetextblender.data.plan import PlanConfig
from voicetextblender.errors import ModelError, RunError
from voicetextblender.train.find_batch import GIB, Trial, search, try_in_process, with_budget
from voicetextblender.train.recipe import dump_recipe
from voicetextblender.train.worst_batch import describe_batch, sizes, worst_batches

PLENTY = 64 * GIB


def run_search(limit: int, budgets: list[int]) -> list[Trial]:
    return list(search(lambda tokens: Trial(tokens, "", tokens, 1.0, tokens <= limit), budgets))


@pytest.mark.parametrize("limit", [100, 101, 399, 400, 513, 799, 5000])
def test_the_search_ends_within_an_eighth_below_what_fits(limit: int) -> None:
    trials = run_search(limit, [100, 200, 400, 800])
    best = max(trial.tokens for trial in trials if trial.fits)
    assert best <= limit
    assert min(limit, 800) - best <= max(1, best // 8)
    assert len(trials) <= 8
    assert len({trial.tokens for trial in trials}) == len(trials)


def test_where_one_conversation_does_not_fit_the_error_says_what_to_lower() -> None:
    with pytest.raises(RunError, match=r"100 tokens, the longest conversation, does not fit.*max_clip_s"):
        run_search(99, [100, 200])


def test_budgets_double_up_to_the_longest_step() -> None:
    config = PlanConfig(conversations_per_step=5, max_conversation_tokens=100, max_tokens_per_microbatch=100)
    assert list(sizes(config)) == [100, 200, 400, 500]


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("max_clip_s", [2.0, 40.0])
def test_the_worst_microbatches_are_full_and_hold_the_longest_clips(pack: bool, max_clip_s: float) -> None:
    config = PlanConfig(max_tokens_per_microbatch=1000, max_conversation_tokens=200, max_clip_s=max_clip_s, pack=pack)
    batches = worst_batches(config, FASTCONFORMER_TOKENS)
    clip_tokens = 25 if max_clip_s == 2.0 else 196
    assert set(batches["audio"].num_audio_tokens) == {clip_tokens}
    for batch in batches.values():
        batch.check()
        assert 1000 - (clip_tokens + 4) < batch.num_tokens <= 1000
        assert batch.token_ids.shape[0] == (1 if pack else 1000 // (clip_tokens + 4 if batch.waveforms else 200))
    assert batches["text"].num_supervised == 5 * 199
    assert describe_batch(batches["text"]) == ("1 x 1,000 tokens" if pack else "5 x 200 tokens")


def test_a_try_survives_a_limit_that_is_too_low(tmp_path: Path) -> None:
    """Many gigabytes would be needed; other tries, below, show that the limit holds the model itself."""
    trial = try_in_process(with_budget(make_recipe(tmp_path), 2**18), 3 * GIB)
    assert not trial.fits
    assert trial.shape.startswith("1 x 2")


def test_what_is_no_lack_of_memory_is_raised(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path)
    broken = recipe.model_copy(update={"model": recipe.model.model_copy(update={"audio_token": "<none>"})})
    with pytest.raises(ModelError, match="<none>"):
        try_in_process(broken, PLENTY)


def test_the_command_prints_every_try_and_the_value_to_set(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, data={"conversations_per_step": 1})
    (tmp_path / "tiny.yaml").write_text(dump_recipe(recipe))
    result = CliRunner().invoke(app, ["train", str(tmp_path / "tiny.yaml"), "--find-batch", "--memory-gib", "3"])
    assert result.exit_code == 0, result.output
    assert "fits" in result.stdout
    assert "set data.max_tokens_per_microbatch=256 (now 512)" in result.stdout
