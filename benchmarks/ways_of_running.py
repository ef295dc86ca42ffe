"""One training in every way to share a model among ranks, on the CPU: the losses of its steps, side by side.

    python benchmarks/ways_of_running.py
    python benchmarks/ways_of_running.py --steps 50 --out runs/ways

Each way is `torchrun ... vtb train` of the same recipe: tiny random models and noise, fp32, three conversations a step,
so that in some steps a rank has no audio, and of four ranks one has nothing at all. Then a checkpoint of two ranks from
the middle goes on with one rank and with four. Exit status 1 where a loss is off by more than 1e-5 of it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from voicetextblender.data.loader import build_loader
from voicetextblender.data.measure import Geometry
from voicetextblender.model.build import build_composite
from voicetextblender.train.recipe import Recipe, dump_recipe

ROOT = Path(__file__).parents[1]
MAX_DIFFERENCE = 1e-5


class Way(NamedTuple):
    """How many ranks share the model, and how."""

    name: str
    num_ranks: int
    overrides: tuple[str, ...]


WAYS = (
    Way("1 rank", 1, ()),
    Way("DDP, 2 ranks", 2, ("train.parallel=ddp",)),
    Way("FSDP2, 2 ranks", 2, ("train.parallel=fsdp",)),
    Way("HSDP, 2 x 2 ranks", 4, ("train.parallel=hsdp", "train.shard_size=2")),
    Way(
        "FSDP2, 2 ranks, layers computed again",
        2,
        (
            "train.parallel=fsdp",
            *(f"train.activation_checkpointing.{part}=true" for part in ("llm", "speech_encoder", "adapter")),
        ),
    ),
)
RESUMED = Way("FSDP2, 2 ranks", 2, ("train.parallel=fsdp",))


def main() -> int:
    """Run as a script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path, help="folder of the runs; a temporary one without it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.out or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        recipe = write_recipe(folder, arguments.steps)
        print(f"steps in which one of 2 ranks has no audio: {count_silent(recipe)} of {arguments.steps}", flush=True)
        losses = {way.name: train(way, folder, f"way{number}") for number, way in enumerate(WAYS)}
        half = arguments.steps // 2
        source = folder / f"way{WAYS.index(RESUMED)}"
        for num_ranks in (1, 4):
            keep_half(source, folder / f"resumed{num_ranks}", half)
            name = f"checkpoint of {RESUMED.name} after step {half}, on {num_ranks}"
            losses[name] = train(RESUMED._replace(num_ranks=num_ranks), folder, f"resumed{num_ranks}")
    return 0 if report(losses) <= MAX_DIFFERENCE else 1


def write_recipe(folder: Path, steps: int) -> Recipe:
    """A recipe over tiny models and noise made in `folder`."""
    sys.path.insert(0, str(ROOT))
    from tests.tiny import make_recipe

    data = {"conversations_per_step": 3, "max_tokens_per_microbatch": 64, "max_conversation_tokens": 60}
    recipe = make_recipe(folder, data=data, steps=steps, checkpoint_every=steps // 2, keep_checkpoints=9)
    (folder / "recipe.yaml").write_text(dump_recipe(recipe))
    return recipe


def count_silent(recipe: Recipe) -> int:
    """Steps in which one of two ranks has clips and the other none."""
    composite = build_composite(recipe.model, recipe.seed)
    geometry = Geometry(composite.num_audio_tokens, composite.geometry_fingerprint)
    loader = build_loader(recipe.data, composite.renderer, geometry, recipe.seed)
    clips = [
        sorted(sum(len(batch.waveforms) for batch in loader.load(step, rank, 2)) for rank in range(2))
        for step in range(recipe.train.steps)
    ]
    return sum(fewest == 0 < most for fewest, most in clips)


def train(way: Way, folder: Path, name: str) -> list[float]:
    """Train (or go on) in `folder / name`; the loss of every step."""
    run = folder / name
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(way.num_ranks)]
    command += ["-m", "voicetextblender", "train", str(folder / "recipe.yaml"), *way.overrides, "--out", str(run)]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{way.name} failed:\n{done.stdout}\n{done.stderr}")
    print(f"{name}: done", file=sys.stderr, flush=True)
    return [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]


def keep_half(source: Path, run: Path, step: int) -> None:
    """A copy of the run as it was when the checkpoint after `step` steps was its newest."""
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(source, run, ignore=shutil.ignore_patterns("model"))
    for checkpoint in (run / "checkpoints").glob("step_*"):
        if int(checkpoint.name.removeprefix("step_")) > step:
            shutil.rmtree(checkpoint)


def report(losses: dict[str, list[float]]) -> float:
    """Print the table; the largest relative difference from the losses of one rank."""
    reference = losses[WAYS[0].name]
    shown = sorted({0, len(reference) // 4, len(reference) // 2, 3 * len(reference) // 4, len(reference) - 1})
    print("| way | " + " | ".join(f"step {step + 1}" for step in shown) + " | largest relative difference |")
    print("|---|" + "---|" * (len(shown) + 1))
    worst = 0.0
    for name, values in losses.items():
        difference = max(abs(ours - theirs) / theirs for ours, theirs in zip(values, reference, strict=True))
        worst = max(worst, difference)
        cells = " | ".join(f"{values[step]:.6f}" for step in shown)
        print(f"| {name} | {cells} | {difference:.1e} |")
    return worst


if __name__ == "__main__":
    sys.exit(main())
