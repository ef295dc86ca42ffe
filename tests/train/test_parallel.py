"""Ways to share a model among ranks: the same steps, whoever holds what; checkpoints go from one to another."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ranks import run_on_ranks
from tests.tiny import make_recipe
from voicetextblender.batch import empty_batch
from voicetextblender.data.loader import Loader, build_loader
from voicetextblender.data.measure import Geometry
from voicetextblender.errors import RunError
from voicetextblender.model.blocks import blocks_of, recompute
from voicetextblender.model.build import Composite
from voicetextblender.model.trainable import trainable_parameters
from voicetextblender.model.weights import whole_state
from voicetextblender.train import loop
from voicetextblender.train.checkpoint import CheckpointStore
from voicetextblender.train.config import TrainConfig
from voicetextblender.train.distributed import Ranks
from voicetextblender.train.optim import build_optimizer
from voicetextblender.train.parallel import ParallelModel, check_shard_size, open_composite, parallelise
from voicetextblender.train.recipe import Recipe
from voicetextblender.train.step import StepResult, batch_losses, run_step

ALONE = Ranks(0, 1, torch.device("cpu"))


@dataclass
class Training:
    """A training by `recipe` on `ranks`, step by step."""

    recipe: Recipe
    ranks: Ranks
    composite: Composite = field(init=False)
    parallel: ParallelModel = field(init=False)
    loader: Loader = field(init=False)

    def __post_init__(self) -> None:
        recipe = self.recipe
        self.composite = open_composite(recipe.model, recipe.seed, recipe.train, self.ranks)
        geometry = Geometry(self.composite.num_audio_tokens, self.composite.geometry_fingerprint)
        with self.ranks.first_rank_first():
            self.loader = build_loader(recipe.data, self.composite.renderer, geometry, recipe.seed)
        self.parallel = parallelise(self.composite.model, recipe.train, self.ranks)
        self.composite.model.train()
        self.parameters = trainable_parameters(self.composite.model)
        self.optimizer = build_optimizer(self.parameters, recipe.train.optim)

    def steps(self, start: int, stop: int) -> list[StepResult]:
        return [self.step(number) for number in range(start, stop)]

    def step(self, number: int) -> StepResult:
        batches = self.loader.load(number, self.ranks.rank, self.ranks.num_ranks)
        learned, config = list(self.parameters.values()), self.recipe.train
        return run_step(
            self.composite, self.optimizer, learned, batches, config, self.parallel, self.recipe.seed, number
        )

    def store(self, folder: Path, in_background: bool = False) -> CheckpointStore:
        return CheckpointStore(folder, "key", 9, self.ranks, in_background)


def change(recipe: Recipe, **train: Any) -> Recipe:
    return recipe.model_copy(
        update={"train": TrainConfig.model_validate(recipe.train.model_dump(exclude_unset=True) | train)}
    )


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Three conversations a step and small microbatches: ranks differ in microbatches, groups of clips and audio."""
    data = {"conversations_per_step": 3, "max_tokens_per_microbatch": 64, "max_conversation_tokens": 60}
    recipe = make_recipe(tmp_path_factory.mktemp("parallel"), data=data, spec_augment=None)
    return recipe.model_copy(update={"seed": 12})  # with it the three steps have all of that


def unequal_steps(training: Training, num_ranks: int, stop: int) -> set[str]:
    """In which ways the shares of some step differ among the ranks."""
    found = set()
    for step in range(stop):
        shares = [training.loader.load(step, rank, num_ranks) for rank in range(num_ranks)]
        clips = [sum(len(batch.waveforms) for batch in share) for share in shares]
        found |= {"microbatches"} if len({len(share) for share in shares}) > 1 else set()
        found |= {"audio"} if min(clips) == 0 < max(clips) else set()
    return found


def assert_same_steps(ours: list[StepResult], theirs: list[StepResult]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-5)
        assert one.loss_by_task == pytest.approx(other.loss_by_task, rel=1e-5)
        assert one.grad_norm == pytest.approx(other.grad_norm, rel=1e-3)
        assert (one.num_supervised, one.num_tokens, one.num_samples) == (
            other.num_supervised,
            other.num_tokens,
            other.num_samples,
        )


STEPS, SAVED = 3, 1


def compare_on_two_ranks(ranks: Ranks, recipe: Recipe, folder: Path, expected: list[StepResult]) -> None:
    """DDP; FSDP2 with layers computed again, and a checkpoint in between; FSDP2 in bf16."""
    again = {"llm": True, "speech_encoder": True, "adapter": True}
    assert_same_steps(Training(change(recipe, parallel="ddp"), ranks).steps(0, STEPS), expected)
    sharded = Training(change(recipe, parallel="fsdp", activation_checkpointing=again), ranks)
    assert sharded.parallel.is_sharded
    assert_same_steps(sharded.steps(0, SAVED), expected[:SAVED])
    store = sharded.store(folder / "two", in_background=True)
    store.save(SAVED, sharded.parameters, sharded.optimizer)
    assert_same_steps(sharded.steps(SAVED, STEPS), expected[SAVED:])  # while it is written, maybe
    store.wait()
    assert store.newest() == SAVED
    rounded = Training(change(recipe, parallel="fsdp", precision="bf16"), ranks)
    assert rounded.step(0).loss == pytest.approx(expected[0].loss, rel=0.01)
    assert {p.dtype for p in rounded.parameters.values()} == {torch.float32}
    tensors = whole_state(sharded.composite)
    if ranks.is_first:
        torch.save(tensors, folder / "whole.pt")


def compare_on_four_ranks(ranks: Ranks, recipe: Recipe, folder: Path, expected: list[StepResult]) -> None:
    """HSDP of two copies, from a checkpoint that two ranks wrote; then one that a single rank reads."""
    copies = Training(change(recipe, parallel="hsdp", shard_size=2), ranks)
    copies.store(folder / "two").load(SAVED, copies.parameters, copies.optimizer)
    assert_same_steps(copies.steps(SAVED, STEPS), expected[SAVED:])
    copies.store(folder / "four").save(STEPS, copies.parameters, copies.optimizer)


def test_ranks_that_share_a_model_make_the_steps_of_one(recipe: Recipe, tmp_path: Path) -> None:
    alone = Training(recipe, ALONE)
    assert unequal_steps(alone, 2, STEPS) == {"microbatches", "audio"}
    expected = alone.steps(0, STEPS)
    after = {name: value.clone() for name, value in whole_state(alone.composite).items()}
    run_on_ranks(2, compare_on_two_ranks, recipe, tmp_path, expected)
    assert_close(torch.load(tmp_path / "whole.pt"), after)

    resumed = Training(recipe, ALONE)
    resumed.store(tmp_path / "two").load(SAVED, resumed.parameters, resumed.optimizer)
    assert_same_steps(resumed.steps(SAVED, STEPS), expected[SAVED:])

    run_on_ranks(4, compare_on_four_ranks, recipe, tmp_path, expected)
    resumed.store(tmp_path / "four").load(STEPS, resumed.parameters, resumed.optimizer)
    assert_close(whole_state(resumed.composite), after)
    assert_same_steps([resumed.step(STEPS)], [alone.step(STEPS)])


def test_layers_that_are_computed_again_change_no_bit(recipe: Recipe) -> None:
    once, twice = Training(recipe, ALONE), Training(recipe, ALONE)
    runs: Counter[str] = Counter()
    for name in ("language_model", "audio_tower", "adapter"):
        part = twice.composite.model.model.get_submodule(name)
        recompute(part)
        norm = next(module for module in blocks_of(part)[-1].modules() if "Norm" in type(module).__name__)
        norm.register_forward_hook(lambda *arguments, name=name: runs.update([name]))
    assert once.step(0) == twice.step(0)
    for name, parameter in once.parameters.items():
        assert torch.equal(parameter, twice.parameters[name]), name
    passes = [passes for _, passes in once.parallel.align(once.loader.load(0))]
    assert runs == {"language_model": 2 * len(passes), "audio_tower": 2 * sum(passes), "adapter": 2 * sum(passes)}


def test_ranks_that_do_not_make_whole_groups_are_refused(recipe: Recipe, tmp_path: Path) -> None:
    four_of_six = change(recipe, parallel="hsdp", shard_size=4).train
    message = (
        r"^train\.shard_size: 4, with 6 ranks; a divisor of the number of ranks\. Start as many processes as make "
        r"whole groups, or change train\.shard_size\.$"
    )
    with pytest.raises(RunError, match=message):
        check_shard_size(four_of_six, Ranks(0, 6, torch.device("cpu")))
    with pytest.raises(RunError, match=r"^train\.shard_size: 4, with 1 rank; "):
        loop.train(recipe.model_copy(update={"train": four_of_six}), tmp_path / "run")


def test_a_shard_size_without_hsdp_is_refused(recipe: Recipe) -> None:
    with pytest.raises(ValueError, match="it should have shard_size with parallel: hsdp alone, not with fsdp"):
        change(recipe, parallel="fsdp", shard_size=2)


def test_a_rank_without_work_runs_on_nothing(recipe: Recipe) -> None:
    """Silence goes through the encoder, adds no row, and leaves every gradient as it was."""
    training = Training(recipe, ALONE)
    text = next(batch for step in range(20) for batch in training.loader.load(step) if not batch.waveforms)
    config, composite = recipe.train, training.composite
    without = batch_losses(composite, text, config)
    torch.testing.assert_close(batch_losses(composite, text, config, 2), without)
    losses = batch_losses(composite, empty_batch(), config, 1)
    assert losses.shape == (0,)
    losses.sum().backward()
    gradients = {name: parameter.grad for name, parameter in training.parameters.items()}
    assert all(gradient is not None and not gradient.any() for gradient in gradients.values())


def assert_close(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-3, atol=1e-4, msg=name)
