"""Invariants 3, 4 and 6: rows agree however they are batched; the gradient does not know the cut; what moves."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.ranks import run_on_two_ranks
from tests.tiny import make_manifest, make_recipe
from voicetextblender.audio.groups import group_by_length
from voicetextblender.batch import Batch
from voicetextblender.data.loader import build_loader
from voicetextblender.data.measure import Geometry
from voicetextblender.model.build import Composite, build_composite
from voicetextblender.model.clips import embed_clips
from voicetextblender.model.trainable import part_of, trainable_parameters
from voicetextblender.train.distributed import Ranks
from voicetextblender.train.optim import build_optimizer
from voicetextblender.train.parallel import parallelise
from voicetextblender.train.recipe import Recipe
from voicetextblender.train.step import StepResult, batch_losses, run_step

ALONE = Ranks(0, 1, torch.device("cpu"))


def load_step(
    recipe: Recipe, composite: Composite, rank: int = 0, num_ranks: int = 1, step: int = 1, **data: int
) -> list[Batch]:
    geometry = Geometry(composite.num_audio_tokens, composite.geometry_fingerprint)
    config = recipe.data.model_copy(update=data)
    return build_loader(config, composite.renderer, geometry, recipe.seed).load(step, rank, num_ranks)


def step_gradients(recipe: Recipe, ranks: Ranks, step: int = 1, **data: int) -> tuple[StepResult, dict[str, Tensor]]:
    """One step; the gradients are read off AdamW's first moment, before any clipping moved them."""
    composite = build_composite(recipe.model, recipe.seed)
    parallel = parallelise(composite.model, recipe.train, ranks)
    composite.model.train()
    parameters = trainable_parameters(composite.model)
    optimizer = build_optimizer(parameters, recipe.train.optim)
    batches = load_step(recipe, composite, ranks.rank, ranks.num_ranks, step, **data)
    result = run_step(
        composite, optimizer, list(parameters.values()), batches, recipe.train, parallel, recipe.seed, step
    )
    return result, {name: optimizer.state[p]["exp_avg"].clone() for name, p in parameters.items()}


def assert_same_step(ours: tuple[StepResult, dict[str, Tensor]], theirs: tuple[StepResult, dict[str, Tensor]]) -> None:
    assert ours[0].loss == pytest.approx(theirs[0].loss, rel=1e-5)
    assert ours[0].num_supervised == theirs[0].num_supervised
    assert ours[0].loss_by_task == pytest.approx(theirs[0].loss_by_task, rel=1e-5)
    assert ours[0].grad_norm == pytest.approx(theirs[0].grad_norm, rel=1e-4)
    assert ours[1].keys() == theirs[1].keys()
    for name, gradient in ours[1].items():
        difference, size = float((gradient - theirs[1][name]).norm()), float(theirs[1][name].norm())
        assert difference <= 1e-4 * size + 1e-7, f"{name}: the gradients differ by {difference} at a norm of {size}"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return make_recipe(tmp_path_factory.mktemp("gradient"), optim={"max_grad_norm": 1e9}, spec_augment=None)


def test_the_gradient_does_not_depend_on_how_a_step_is_cut_into_rows_and_microbatches(recipe: Recipe) -> None:
    cuts = {
        "packed into few rows": {"max_tokens_per_microbatch": 4096, "max_conversation_tokens": 256},
        "packed, some microbatches": {"max_tokens_per_microbatch": 120, "max_conversation_tokens": 60},
        "a row for each": {"max_tokens_per_microbatch": 4096, "max_conversation_tokens": 60, "pack": False},
        "a row for each, many microbatches": {
            "max_tokens_per_microbatch": 60,
            "max_conversation_tokens": 60,
            "pack": False,
        },
    }
    composite = build_composite(recipe.model, recipe.seed)
    batches = [load_step(recipe, composite, **cut) for cut in cuts.values()]
    assert [len(batch) for batch in batches] == [1, 3, 1, 7]
    rows = [sum(len(batch.token_ids) for batch in of_cut) for of_cut in batches]
    assert max(rows[:2]) < 8 and rows[2:] == [8, 8]
    first, *others = [step_gradients(recipe, ALONE, **cut) for cut in cuts.values()]
    for other in others:
        assert_same_step(first, other)


def save_gradients(ranks: Ranks, recipe: Recipe, folder: Path, step: int) -> None:
    torch.save(step_gradients(recipe, ranks, step), folder / f"rank{ranks.rank}.pt")


def two_ranks(recipe: Recipe, folder: Path, step: int = 1) -> tuple[StepResult, dict[str, Tensor]]:
    run_on_two_ranks(save_gradients, recipe, folder, step)
    first, second = (torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(2))
    assert_same_step(first, second)
    return first


def test_the_gradient_is_the_same_on_one_and_on_two_ranks(recipe: Recipe, tmp_path: Path) -> None:
    assert_same_step(step_gradients(recipe, ALONE), two_ranks(recipe, tmp_path))


def test_a_rank_without_audio_takes_part(recipe: Recipe, tmp_path: Path) -> None:
    """Two conversations a step: one rank holds the only clip, the other one text alone."""
    pair = recipe.model_copy(update={"data": recipe.data.model_copy(update={"conversations_per_step": 2})})
    composite = build_composite(pair.model, pair.seed)
    step = next(step for step in range(100) if {0} < set(clips_per_rank(pair, composite, step)))
    assert min(clips_per_rank(pair, composite, step)) == 0 < max(clips_per_rank(pair, composite, step))
    assert_same_step(step_gradients(pair, ALONE, step), two_ranks(pair, tmp_path, step))


def clips_per_rank(recipe: Recipe, composite: Composite, step: int) -> list[int]:
    batches = [load_step(recipe, composite, rank, 2, step) for rank in range(2)]
    return [sum(len(batch.waveforms) for batch in share) for share in batches]


@pytest.mark.parametrize("llm", ["lora", "full", "frozen"])
@pytest.mark.parametrize("speech", [True, False])
def test_exactly_the_parameters_that_the_recipe_names_change(recipe: Recipe, llm: str, speech: bool) -> None:
    trainable = {"llm": llm, "speech_encoder": speech, "adapter": True}
    config = recipe.model.model_validate(recipe.model.model_dump() | {"trainable": trainable})
    composite = build_composite(config, recipe.seed)
    before = {name: value.clone() for name, value in composite.model.state_dict().items()}
    composite.model.train()
    parameters = trainable_parameters(composite.model)
    optimizer = build_optimizer(parameters, recipe.train.optim)
    parallel = parallelise(composite.model, recipe.train, ALONE)
    for step in range(2):  # LoRA's first matrix has no gradient while the second is zero
        batches = load_step(recipe, composite)
        run_step(composite, optimizer, list(parameters.values()), batches, recipe.train, parallel, recipe.seed, step)
    after = composite.model.state_dict()
    # A bias added to every key shifts all scores of a query alike, and softmax does not see it: its gradient is 0 but
    # for rounding, which AdamW may or may not make visible.
    unknown = {name for name in parameters if name.endswith("k_proj.bias")}
    expected = set(parameters) - unknown
    if llm == "full":
        expected.add("lm_head.weight")  # tied to the input embeddings
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert after.keys() == before.keys()
    assert changed - unknown == expected
    assert {part_of(name) for name in parameters} == (
        {"adapter"} | ({"speech_encoder"} if speech else set()) | ({"llm"} if llm != "frozen" else set())
    )


def test_a_clip_alone_equals_the_clip_in_any_padded_batch(recipe: Recipe) -> None:
    composite = build_composite(recipe.model, recipe.seed)
    random = np.random.default_rng(0)
    lengths = [160, 161, 1279, 1280, 1281, 16_000, 23_456, 48_000]
    clips = [torch.from_numpy(random.normal(0, 0.1, length).astype(np.float32)) for length in lengths]
    counts = [composite.num_audio_tokens(length) for length in lengths]
    with torch.inference_mode():
        alone = [
            embed_clips(composite.model.model, composite.front_end, [clip], [count])
            for clip, count in zip(clips, counts, strict=True)
        ]
        for order in [random.permutation(len(clips)) for _ in range(5)]:
            together = embed_clips(
                composite.model.model, composite.front_end, [clips[i] for i in order], [counts[i] for i in order]
            )
            torch.testing.assert_close(together, torch.cat([alone[i] for i in order]), rtol=1e-4, atol=1e-5)


def test_a_conversation_alone_equals_the_same_in_a_packed_row(recipe: Recipe) -> None:
    composite = build_composite(recipe.model, recipe.seed)
    packed = load_step(recipe, composite, max_tokens_per_microbatch=120, max_conversation_tokens=60)
    alone = load_step(recipe, composite, max_tokens_per_microbatch=60, max_conversation_tokens=60, pack=False)
    assert len(packed) == 3 and len(alone) == 7
    with torch.inference_mode():
        together, apart = (
            losses_by_conversation(recipe, composite, packed),
            losses_by_conversation(recipe, composite, alone),
        )
    assert together.keys() == apart.keys() and len(apart) == 8
    for conversation, losses in apart.items():
        torch.testing.assert_close(together[conversation], losses, rtol=1e-4, atol=1e-5)


def losses_by_conversation(
    recipe: Recipe, composite: Composite, batches: list[Batch]
) -> dict[tuple[tuple[int, ...], tuple[int, ...]], Tensor]:
    """By token ids and keys of the clips, which no two conversations of an epoch share."""
    losses = {}
    for batch in batches:
        pieces = batch.split_by_conversation(batch_losses(composite, batch, recipe.train))
        clips = torch.tensor(batch.clip_keys).repeat_interleave(torch.tensor(batch.num_audio_tokens, dtype=torch.int64))
        owners = batch.conversation_ids[batch.audio_mask]
        for number, piece in enumerate(pieces):
            ids = tuple(batch.token_ids[batch.conversation_ids == number].tolist())
            losses[ids, tuple(clips[owners == number].unique().tolist())] = piece
    return losses


def test_groups_hold_every_clip_once_and_little_padding() -> None:
    random = np.random.default_rng(5)
    for _ in range(50):
        lengths = random.integers(160, 640_000, random.integers(0, 40)).tolist()
        groups = group_by_length(lengths, 48_000)
        assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
        for group in groups:
            padding = max(lengths[i] for i in group) * len(group) - sum(lengths[i] for i in group)
            assert padding <= 48_000 * sum(1 / n for n in range(1, len(group) + 1))


def test_no_other_groups_of_clips_cost_less() -> None:
    random = np.random.default_rng(6)
    for _ in range(30):
        lengths = sorted(random.integers(1, 50, random.integers(1, 9)).tolist(), reverse=True)

        def cost(groups: list[list[int]], lengths: list[int] = lengths) -> int:
            return sum(max(lengths[i] for i in group) * len(group) + 20 for group in groups)

        borders = [[0, *(k + 1 for k in range(len(lengths) - 1) if cuts >> k & 1), len(lengths)] for cuts in range(256)]
        every_way = [[list(range(*pair)) for pair in pairwise(border)] for border in borders]
        assert cost(group_by_length(lengths, 20)) == min(map(cost, every_way))


def test_spec_augment_depends_on_the_clip_and_not_on_the_batch(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, optim={"max_grad_norm": 1e9})
    make_manifest(tmp_path)
    whole = step_gradients(recipe, ALONE, max_tokens_per_microbatch=4096, max_conversation_tokens=256)
    single = step_gradients(recipe, ALONE, max_tokens_per_microbatch=60, max_conversation_tokens=60)
    assert_same_step(whole, single)
