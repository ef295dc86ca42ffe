"""The embedded world from nothing to a report: data, base models, joint training, baselines. What is done is kept."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from voicetextblender.evaluate.columns import evaluate_bases, evaluate_run
from voicetextblender.evaluate.config import EvaluateConfig
from voicetextblender.evaluate.predictions import ColumnResult
from voicetextblender.evaluate.report import WrittenReport, print_table, write_report
from voicetextblender.evaluate.runs import RunLog
from voicetextblender.mini.base_encoder import TranscribedClip, pretrain_base_encoder
from voicetextblender.mini.base_llm import is_finished, pretrain_base_llm
from voicetextblender.mini.beside import beside, num_threads
from voicetextblender.mini.rows import MiniWorldConfig
from voicetextblender.mini.world import build_world, write_manifests
from voicetextblender.prepare.synthesis import synthesize_utterances
from voicetextblender.progress import ShowProgress, show_nothing, show_progress
from voicetextblender.train.loop import MODEL_FOLDER, train
from voicetextblender.train.recipe import Recipe, load_recipe

HOME = "runs/mini"
"""Where the shipped recipes expect the world; another folder replaces it throughout."""
CLAIM_RECIPES = ("mini", "mini-speech-only", "mini-frozen-llm")
CLAIM_STEPS = 1800
"""Of each training of the claims. The demo's own, as the recipe has it, is shorter: somebody waits for it."""
NUM_WORKERS = 1 + (os.cpu_count() or 2)
"""Processes that synthesise speech, beside the one that trains the LLM: the speech encoder waits for them."""
NUM_THREADS = 2
"""Of the joint training: more do not make so small a model faster, and another number rounds otherwise."""


def prepare_mini(out: Path, console: Console | None = None) -> None:
    """Make the data, the base LLM and the base speech encoder of the embedded world under `out`.

    The LLM learns from text that it makes itself, so it learns in a process beside the rest, one thread each: on two
    cores that is faster than two threads for one after the other.
    """
    console = console or Console()
    config, llm, encoder = MiniWorldConfig(), out / "base/llm", out / "base/encoder"
    title = "base models: speech by espeak-ng, a speech encoder, beside them an LLM"
    with stage(title, console), nullcontext() if is_finished(llm) else beside(_pretrain_base_llm_alone, llm):
        clips = prepare_data(out / "data", config)
        if not (encoder / "config.json").is_file():
            pretrain_base_encoder(clips, encoder, console=console)


def _pretrain_base_llm_alone(folder: Path) -> None:
    pretrain_base_llm(folder, console=Console(force_terminal=False))


def _evaluate_alone(model_dir: Path, recipe: Recipe, folder: Path, rows: Sequence[str]) -> None:
    evaluate_bases(recipe.model, rows_of(recipe), folder, show=show_nothing)
    evaluate_run(model_dir, rows_of(recipe), folder, rows, show=show_nothing)


def prepare_data(data_dir: Path, config: MiniWorldConfig) -> list[TranscribedClip]:
    """Speak every clip, write every manifest, and return the training clips with their transcripts."""
    world = build_world(config)
    with show_progress("Speaking") as report:
        num_samples = synthesize_utterances(world.utterances, data_dir, NUM_WORKERS, report)
    write_manifests(world, data_dir, num_samples)
    return [
        TranscribedClip(data_dir / utterance.path, num_samples[utterance.path], utterance.text)
        for utterance in world.encoder_utterances
    ]


def run_demo(out: Path, console: Console | None = None) -> WrittenReport:
    """The whole method in minutes: base models, one joint training, and a report beside base LLM and cascade."""
    console = console or Console()
    prepare_mini(out, console)
    recipe, run_dir = mini_recipe("mini", out), out / "joint"
    with stage("joint training", console), num_threads(NUM_THREADS):
        model_dir = train(recipe, run_dir, console)
    with stage("evaluation", console):
        rows = list(rows_of(recipe).rows)
        # The other process has the base models too, which take as long as a third of the joint model's rows.
        with beside(_evaluate_alone, model_dir, recipe, out / "report", rows[2::3]):
            evaluate_run(model_dir, rows_of(recipe), out / "report", [*rows[::3], *rows[1::3]])
        joint = evaluate_run(model_dir, rows_of(recipe), out / "report", show=show_nothing)
    bases = evaluate_bases(recipe.model, rows_of(recipe), out / "report", show=show_nothing)
    return report(out, [*bases, joint], [RunLog("joint", recipe.name, run_dir)], console)


@dataclass(frozen=True)
class Claim:
    """One training of the claims: a shipped recipe with a seed."""

    recipe: str
    seed: int

    def resolve(self, out: Path) -> Recipe:
        """The recipe over the world in `out`."""
        return mini_recipe(self.recipe, out, [f"seed={self.seed}", f"train.steps={CLAIM_STEPS}"])

    def run_dir(self, out: Path) -> Path:
        """Where it is trained."""
        return out / "claims" / f"{rows_of(self.resolve(out)).column}-seed{self.seed}"

    def replies(self, out: Path) -> Path:
        """Where its replies are kept, those of all recipes with this seed."""
        return out / "claims" / f"replies-seed{self.seed}"


def run_claims(out: Path, seeds: int, console: Console | None = None) -> WrittenReport:
    """Joint, speech-only and frozen-LLM training on the demo's base models, `seeds` of each, in one report."""
    console = console or Console()
    prepare_mini(out, console)
    claims = [Claim(name, seed) for seed in range(seeds) for name in CLAIM_RECIPES]
    second = claims[1::2]
    names = ", ".join(f"{rows_of(claim.resolve(out)).column} (seed {claim.seed})" for claim in second)
    console.print(f"two trainings at a time, one thread each; beside those shown: {names}", highlight=False)
    with beside(_claim_alone, second, out):
        for claim in claims[::2]:
            claim_one(claim, out, console)
    recipe = claims[0].resolve(out)
    with stage("evaluation of the base models", console):
        bases = evaluate_bases(recipe.model, rows_of(recipe), out / "report")
    results = [
        evaluate_run(
            claim.run_dir(out) / MODEL_FOLDER, rows_of(claim.resolve(out)), claim.replies(out), show=show_nothing
        )
        for claim in claims
    ]
    logs = [
        RunLog(result.column, f"{claim.resolve(out).name}, seed {claim.seed}", claim.run_dir(out))
        for claim, result in zip(claims, results, strict=True)
    ]
    return report(out, [*bases, *results], logs, console, "claims")


def claim_one(claim: Claim, out: Path, console: Console, show: ShowProgress = show_progress) -> None:
    """Train and evaluate one of the claims; what is done is kept."""
    recipe = claim.resolve(out)
    with stage(f"{rows_of(recipe).column}, seed {claim.seed}", console):
        model_dir = train(recipe, claim.run_dir(out), console)
        evaluate_run(model_dir, rows_of(recipe), claim.replies(out), show=show)


def _claim_alone(claims: Sequence[Claim], out: Path) -> None:
    for claim in claims:
        claim_one(claim, out, Console(quiet=True), show_nothing)


def report(
    out: Path, results: Sequence[ColumnResult], logs: Sequence[RunLog], console: Console, folder: str = "report"
) -> WrittenReport:
    """Write the report, show its table and say where it lies."""
    bases = [RunLog(name, f"base {name}", out / "base" / name) for name in ("llm", "encoder")]
    written = write_report(results, [*bases, *logs], out / folder)
    print_table(written.table, console)
    run_dir = next(log.folder for log in logs if log.column == "joint")
    console.print(f"\nreport: {written.html}\nchat:   vtb chat {run_dir}", soft_wrap=True, highlight=False)
    return written


def mini_recipe(name: str, out: Path, overrides: Sequence[str] = ()) -> Recipe:
    """A shipped recipe of the embedded world, over the world in `out`."""
    recipe = load_recipe(name, overrides)
    return Recipe.model_validate(_relocate(recipe.model_dump(mode="json"), str(out)))


def rows_of(recipe: Recipe) -> EvaluateConfig:
    """What a recipe of the embedded world, which all have it, evaluates."""
    assert recipe.evaluate is not None
    return recipe.evaluate


@contextmanager
def stage(title: str, console: Console) -> Iterator[None]:
    """Announce a stage, and say how long it took."""
    console.rule(f"[bold]{title}", align="left")
    start = time.monotonic()
    yield
    console.print(f"[dim]{time.monotonic() - start:.0f} s", highlight=False)


def _relocate(value: Any, out: str) -> Any:
    """The same values with every path below `HOME` moved below `out`."""
    if isinstance(value, dict):
        return {key: _relocate(child, out) for key, child in value.items()}
    if isinstance(value, list):
        return [_relocate(child, out) for child in value]
    if isinstance(value, str) and (value == HOME or value.startswith(f"{HOME}/")):
        return out + value.removeprefix(HOME)
    return value
