"""Packed rows against padded rows: how much of a microbatch is padding, and how many examples a second are learned.

    python benchmarks/packing.py
    python benchmarks/packing.py --tiny --steps 1 --repeats 1

It takes the recipe `mini` where `vtb prepare mini` has made `runs/mini`, and tiny random models elsewhere.
Three ways to batch the same conversations of the same steps: padded rows in the order of the blend, padded rows sorted
by length, packed rows. The first two are timed twice: with all clips of a microbatch padded to its longest, as plain
trainers do, and with clips in groups of like length, as here. Each is timed in turn, forward and backward, and all
losses must agree. Only ratios within one run mean something.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray

from voicetextblender.audio.groups import group_by_length
from voicetextblender.audio.lengths import HOP_LENGTH, SUBSAMPLING_FACTOR
from voicetextblender.batch import Batch
from voicetextblender.data.blend import Blend
from voicetextblender.data.loader import Loader, build_loader
from voicetextblender.data.measure import Geometry
from voicetextblender.data.plan import Draw, Microbatch, Plan, PlanConfig, RowLengths
from voicetextblender.data.reading import RowReader
from voicetextblender.data.sharing import ATTENTION_TOKENS
from voicetextblender.model import clips
from voicetextblender.model.build import Composite, build_composite
from voicetextblender.train.recipe import Recipe, load_recipe
from voicetextblender.train.step import batch_losses

ROOT = Path(__file__).resolve().parents[1]
MINI = Path("runs/mini/base/llm")
WAYS = ("drawn order, padded", "sorted, padded", "packed")
TIMED = {
    "drawn order, padded": (WAYS[0], False),
    "sorted, padded": (WAYS[1], False),
    "drawn order, clips grouped": (WAYS[0], True),
    "sorted, clips grouped": (WAYS[1], True),
    "packed": (WAYS[2], True),
}
"""How the rows of a microbatch are made, and whether its clips are encoded in groups of like length."""
SAMPLES_PER_TOKEN = HOP_LENGTH * SUBSAMPLING_FACTOR
NUM_STEPS = 25
"""Over which the shares of padding are averaged."""


@dataclass(frozen=True)
class Lengths:
    """Tokens of conversations, and those of the one clip that each of them has."""

    num_tokens: NDArray[np.integer]
    num_audio_tokens: NDArray[np.integer]


class Unsorted(Plan):
    """Padded rows in the order of the blend; a microbatch is full when the next row would pass the budget."""

    def step(self, step: int, rank: int = 0, num_ranks: int = 1) -> tuple[Microbatch, ...]:
        assert num_ranks == 1
        microbatches: list[list[tuple[Draw]]] = [[]]
        longest = 0
        for draw in self.draws(step):
            longest = max(longest, self.length(draw)[0])
            if longest * (len(microbatches[-1]) + 1) > self.config.max_tokens_per_microbatch:
                microbatches.append([])
                longest = self.length(draw)[0]
            microbatches[-1].append((draw,))
        return tuple(map(tuple, microbatches))


def main() -> int:
    """Run as a script; exit status 1 where the losses differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3, help="steps whose conversations are timed")
    parser.add_argument("--repeats", type=int, default=3, help="times that each way is timed; the median counts")
    parser.add_argument("--conversations", type=int, help="conversations of a step, in place of the recipe's")
    parser.add_argument("--budget", type=int, help="data.max_tokens_per_microbatch, in place of the recipe's")
    parser.add_argument("--threads", type=int, help="threads that compute; torch's own choice without it")
    parser.add_argument("--tiny", action="store_true", help="tiny random models, also where runs/mini is prepared")
    parser.add_argument("--lengths-only", action="store_true", help="time nothing")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        recipe = choose_recipe(arguments, Path(folder))
        composite = build_composite(recipe.model, recipe.seed)
        loaders = make_loaders(recipe, composite)
        report_lengths(recipe, loaders["packed"])
        if arguments.lengths_only:
            return 0
        return 0 if report_speed(recipe, composite, loaders, arguments.steps, arguments.repeats) else 1


def choose_recipe(arguments: argparse.Namespace, folder: Path) -> Recipe:
    """The embedded world's if it is prepared, else one over tiny random models and noise made in `folder`."""
    if MINI.is_dir() and not arguments.tiny:
        recipe = load_recipe("mini")
    else:
        sys.path.insert(0, str(ROOT))
        from tests.tiny import make_recipe

        recipe = make_recipe(folder)
    changes = {"num_workers": 0, "cache_dir": str(folder / "cache")}
    changes |= {"conversations_per_step": arguments.conversations} if arguments.conversations else {}
    changes |= {"max_tokens_per_microbatch": arguments.budget} if arguments.budget else {}
    train = recipe.train.model_copy(update={"precision": "fp32", "spec_augment": None})
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=changes), "train": train})


def make_loaders(recipe: Recipe, composite: Composite) -> dict[str, Loader]:
    """One loader for each way, over the same sources, blend and steps."""
    geometry = Geometry(composite.num_audio_tokens, composite.geometry_fingerprint)
    loader = build_loader(recipe.data, composite.renderer, geometry, recipe.seed)
    plans = three_ways(loader.indexes, loader.plan.blend, recipe.data)
    return {
        way: Loader(RowReader(plan, loader.indexes, composite.renderer, geometry, recipe.seed))
        for way, plan in plans.items()
    }


def three_ways(indexes: Sequence[RowLengths], blend: Blend, config: PlanConfig) -> dict[str, Plan]:
    alone, packed = (config.model_copy(update={"pack": value}) for value in (False, True))
    plans = (Unsorted(indexes, blend, alone), Plan(indexes, blend, alone), Plan(indexes, blend, packed))
    return dict(zip(WAYS, plans, strict=True))


def report_lengths(recipe: Recipe, loader: Loader) -> None:
    """Padding of the recipe's own steps and of drawn distributions, without any model."""
    cases = {f"recipe {recipe.name}": three_ways(loader.indexes, loader.plan.blend, recipe.data)}
    for name, (num_tokens, size, budget) in draw_distributions().items():
        audio_share = np.random.default_rng(1).random(len(num_tokens)) * 0.8
        index = Lengths(num_tokens, (num_tokens * audio_share).astype(int))
        config = PlanConfig(conversations_per_step=size, max_tokens_per_microbatch=budget)
        cases[name] = three_ways([index], Blend({"all": 1.0}, {"all": len(num_tokens)}, seed=0), config)
    print(f"{'':54}{'padding':>9}{'work':>7}{'microbatches':>14}{'encoder padding':>17}{'groups':>8}")
    for name, plans in cases.items():
        config = plans["packed"].config
        print(f"{name}: {config.conversations_per_step} conversations, budget {config.max_tokens_per_microbatch}")
        padded, work, microbatches, encoder_padded, groups = range(5)
        means = {way: np.mean([measure(plan, step) for step in range(NUM_STEPS)], 0) for way, plan in plans.items()}
        for way, mean in means.items():
            print(
                f"    {way:50}{mean[padded]:9.1%}{mean[work] / means['sorted, padded'][work]:7.2f}"
                f"{mean[microbatches]:14.1f}{mean[encoder_padded]:17.1%}{mean[groups]:8.1f}"
            )
    print("Padding: of rows times the longest. Work: of the LLM, sorted = 1. Groups: of clips. Means over steps.")


def draw_distributions() -> dict[str, tuple[NDArray[np.integer], int, int]]:
    """Tokens of conversations, conversations of a step, budget of a microbatch."""
    random = np.random.default_rng(0)
    short, long = random.integers(60, 150, 20_000), random.integers(800, 2000, 20_000)
    return {
        "log-normal, sigma 0.6, median 148": (random.lognormal(5, 0.6, 20_000).astype(int).clip(8, 2048), 64, 4096),
        "log-normal, sigma 1.0, median 245": (random.lognormal(5.5, 1.0, 20_000).astype(int).clip(8, 2048), 256, 8192),
        "80 % of 60-150, 20 % of 800-2,000": (np.where(random.random(20_000) < 0.8, short, long), 64, 4096),
        "1,100-2,048 evenly": (random.integers(1100, 2049, 20_000), 32, 4096),
    }


def measure(plan: Plan, step: int) -> tuple[float, float, int, float, int]:
    """Share of padding, work, microbatches, share of padding among encoder frames, groups of clips."""
    tokens = taken = work = frames = taken_frames = num_groups = 0
    microbatches = plan.step(step)
    for microbatch in microbatches:
        lengths = [[plan.length(draw) for draw in row] for row in microbatch]
        width = max(sum(num_tokens for num_tokens, _ in row) for row in lengths)
        tokens += sum(num_tokens for row in lengths for num_tokens, _ in row)
        taken += len(lengths) * width
        work += len(lengths) * width * (ATTENTION_TOKENS + width)
        samples = [num_audio_tokens * SAMPLES_PER_TOKEN for row in lengths for _, num_audio_tokens in row]
        samples = [num_samples for num_samples in samples if num_samples]
        for group in group_by_length(samples):
            frames += sum(samples[i] for i in group)
            taken_frames += max(samples[i] for i in group) * len(group)
            num_groups += 1
    return 1 - tokens / taken, work, len(microbatches), 1 - frames / max(1, taken_frames), num_groups


def report_speed(
    recipe: Recipe, composite: Composite, loaders: dict[str, Loader], num_steps: int, num_repeats: int
) -> bool:
    """Time forward and backward of each way in turn; true where all losses agree."""
    composite.model.train()
    batches = {
        way: [batch for step in range(num_steps) for batch in loader.load(step)] for way, loader in loaders.items()
    }
    seconds: dict[str, list[float]] = {way: [] for way in TIMED}
    losses: dict[str, float] = {}
    for repeat in range(num_repeats + 1):
        for way in list(TIMED)[:: 1 if repeat % 2 else -1]:
            rows, grouped = TIMED[way]
            start = time.perf_counter()
            with nullcontext() if grouped else patch.object(clips, "group_by_length", one_group):
                losses[way] = learn(recipe, composite, batches[rows])
            if repeat:  # the first round warms up
                seconds[way].append(time.perf_counter() - start)
    num_conversations = recipe.data.conversations_per_step * num_steps
    per_second = {way: num_conversations / statistics.median(seconds[way]) for way in TIMED}
    print(
        f"\n{recipe.name}: {num_conversations} conversations, {torch.get_num_threads()} threads, {num_repeats} repeats"
    )
    for way, (rows, _) in TIMED.items():
        ratio, spread = per_second["packed"] / per_second[way], max(seconds[way]) / min(seconds[way])
        print(
            f"    {way:28}{len(batches[rows]):4} microbatches {per_second[way]:8.1f} examples/s   packed / this "
            f"{ratio:5.2f}   slowest / fastest {spread:5.2f}   loss {losses[way]:.4f}"
        )
    agree = all(abs(loss - losses["packed"]) <= 1e-4 * losses["packed"] for loss in losses.values())
    print(json.dumps({"examples_per_s": per_second, "losses_agree": agree}))
    return agree


def one_group(lengths: Sequence[int]) -> list[list[int]]:
    """All clips together, in the form of `group_by_length`."""
    return [list(range(len(lengths)))] if lengths else []


def learn(recipe: Recipe, composite: Composite, batches: Sequence[Batch]) -> float:
    """Gradient of the mean loss over `batches`, and that loss."""
    total, loss = sum(batch.num_supervised for batch in batches), 0.0
    for batch in batches:
        mean = batch_losses(composite, batch, recipe.train).sum() / total
        mean.backward()  # type: ignore[no-untyped-call]
        loss += mean.item()
    composite.model.zero_grad(set_to_none=True)
    return loss


if __name__ == "__main__":
    sys.exit(main())
