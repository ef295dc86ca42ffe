"""A training on 20 million rows: how soon it is ready, what it holds in memory, how full its microbatches are.

    python benchmarks/plan_at_scale.py
    python benchmarks/plan_at_scale.py --rows 200000 --steps 2

An index of that many rows is written in the form that the package maps into memory, in five sources, beside manifests
of the right size (empty: planning reads no row). Then a fresh process opens them as a training does, plans
its first step, seeks to random steps, and shares steps among ranks. Beside it stands, where it is installed, Lhotse's
`DynamicBucketingSampler` (30 buckets, the same budget) on the same lengths: a row for each conversation, as there.

Durations have the range and the mean that the papers of the corpora give; between those the shape is ours:
  books      10-20 s evenly, mean 14.9 s         MLS, Pratap et al. 2020 (English: 44,700 h in 10.8 million)
  read       up to 35 s, mean 12.3 s             LibriSpeech, Panayotov et al. 2015 (961 h in 281,000)
  talks      up to 20 s, mean 4.3 s, skewed      GigaSpeech, Chen et al. 2021 (10,000 h in 8.3 million)
  sentences  1-10 s, mean about 5 s              Common Voice, Ardila et al. 2020
  text       log-normal, median 220 tokens       no audio; lengths of our own choice
A second of speech has 12.5 audio tokens and about 3.5 tokens of transcript; a prompt has 32. Weights: 85 % speech and
15 % text, as VoiceTextBlender was trained.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voicetextblender.audio.groups import group_by_length
from voicetextblender.audio.lengths import HOP_LENGTH, SUBSAMPLING_FACTOR, num_audio_tokens
from voicetextblender.chat.render import Renderer
from voicetextblender.data.blend import Blend
from voicetextblender.data.index import SourceIndex, index_stem, open_index, store_index
from voicetextblender.data.measure import COLUMNS, Geometry, Limits
from voicetextblender.data.plan import Microbatch, Plan, PlanConfig
from voicetextblender.data.readers.config import SourceConfig
from voicetextblender.data.readers.fingerprints import SETTLED_NS
from voicetextblender.data.readers.source import Source
from voicetextblender.data.sources import open_source
from voicetextblender.units import seconds_to_samples

ROOT = Path(__file__).resolve().parents[1]
BYTES_PER_ROW = 300
SAMPLES_PER_TOKEN = HOP_LENGTH * SUBSAMPLING_FACTOR
GEOMETRY = Geometry(num_audio_tokens, "benchmark")
LIMITS = Limits(2048, 40.0)
NUM_LHOTSE_ROWS = 100_000
SHAPES = ((8, 2, 4096), (8, 2, 8192), (8, 2, 16384), (64, 2, 8192))
"""Ranks, microbatches of each in a step, tokens of a microbatch."""

Random = np.random.Generator
Floats = NDArray[np.float64]


def _books(random: Random, size: int) -> Floats:
    return random.uniform(10, 20, size)


def _read(random: Random, size: int) -> Floats:
    is_whole = random.random(size) < 0.7
    return np.where(is_whole, random.normal(14.5, 1.5, size), random.uniform(1.5, 13, size)).clip(1.3, 35)


def _talks(random: Random, size: int) -> Floats:
    return random.lognormal(1.22, 0.7, size).clip(0.5, 20)


def _sentences(random: Random, size: int) -> Floats:
    return random.gamma(7, 0.72, size).clip(1, 10)


SOURCES: dict[str, tuple[Callable[[Random, int], Floats] | None, float, float]] = {
    "books": (_books, 0.35, 0.25),
    "read": (_read, 0.1, 0.15),
    "talks": (_talks, 0.3, 0.3),
    "sentences": (_sentences, 0.1, 0.15),
    "text": (None, 0.15, 0.15),
}
"""Durations in seconds, share of the rows, weight."""


def main() -> int:
    """Run as a script; exit status 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000_000, help="rows of all sources together")
    parser.add_argument("--steps", type=int, default=10, help="random steps that are looked at for each shape")
    parser.add_argument("--seeks", type=int, default=50, help="random steps that are sought for each shape")
    parser.add_argument("--folder", type=Path, help="where the indexes are kept; a temporary one by default")
    parser.add_argument("--stage", choices=("make", "measure"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage == "make":
        make_sources(arguments.folder, arguments.rows)
        return 0
    if arguments.stage == "measure":
        return report(measure(arguments.folder, arguments.steps, arguments.seeks))
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        numbers = {"--rows": arguments.rows, "--steps": arguments.steps, "--seeks": arguments.seeks}
        command = [sys.executable, __file__, *(str(word) for pair in numbers.items() for word in pair)]
        for stage in ("make", "measure"):  # processes of their own: memory and time are those of a fresh start
            environment = os.environ | {"STARTED_AT": repr(time.time())}
            done = subprocess.run([*command, "--folder", str(folder), "--stage", stage], env=environment, check=False)
            if done.returncode:
                return done.returncode
    return 0


def make_sources(folder: Path, num_rows: int) -> None:
    """Manifests without content, and their indexes in the cache."""
    renderer = make_renderer()
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {name: int(num_rows * share) for name, (_, share, _) in SOURCES.items()}
    for name, size in sizes.items():
        with manifest_of(folder, name).open("wb") as file:
            file.truncate(BYTES_PER_ROW * size)
    time.sleep(1.5 * SETTLED_NS / 1e9)  # then what is hashed is relied upon
    for seed, (name, (durations, _, _)) in enumerate(SOURCES.items()):
        begun = time.perf_counter()
        rows = draw_rows(np.random.default_rng(seed), durations, sizes[name])
        store_index(index_stem(open_one(folder, name), renderer, GEOMETRY, folder / "cache"), rows, [])
        hours = rows["num_samples"].sum() / 16000 / 3600
        print(
            f"{name:10}{len(rows):>12,} rows {hours:>9,.0f} h, {rows['num_tokens'].mean():6.0f} tokens a row, "
            f"made in {time.perf_counter() - begun:.0f} s",
            flush=True,
        )


def draw_rows(random: Random, durations: Callable[[Random, int], Floats] | None, size: int) -> NDArray[Any]:
    """Rows of an index (`COLUMNS`) of one source."""
    rows = np.zeros(size, COLUMNS)
    rows["line"] = np.arange(1, size + 1)
    rows["offset"] = np.arange(size) * BYTES_PER_ROW
    rows["num_bytes"] = BYTES_PER_ROW
    if durations is None:
        rows["num_tokens"] = random.lognormal(5.4, 0.8, size).clip(20, 2100)  # some are too long: they are dropped
        rows["num_supervised"] = rows["num_tokens"] // 2
        return rows
    duration_s = durations(random, size)
    written = duration_s * 3.5 * random.normal(1, 0.15, size).clip(0.5, 1.5)
    rows["num_clips"] = 1
    rows["num_samples"] = rows["longest_clip"] = duration_s * seconds_to_samples(1.0)
    rows["num_audio_tokens"] = -(-rows["longest_clip"] // SAMPLES_PER_TOKEN)
    rows["num_tokens"] = rows["num_audio_tokens"] + written.astype(int) + 32
    rows["num_supervised"] = written + 1
    rows["num_spare"] = random.integers(0, 12, size)
    return rows


def measure(folder: Path, num_steps: int, num_seeks: int) -> dict[str, Any]:
    """All figures, in a process that began for it."""
    begun = float(os.environ.get("STARTED_AT", time.time()))
    renderer = make_renderer()
    imported = time.time()
    indexes = [open_index(open_one(folder, name), renderer, GEOMETRY, LIMITS, folder / "cache") for name in SOURCES]
    plan = make_plan(indexes, *SHAPES[1])
    plan.step(0, 0, SHAPES[1][0])
    ready = time.time()
    figures: dict[str, Any] = {
        "rows": sum(index.num_rows for index in indexes),
        "dropped": sum(sum(index.drops.values()) for index in indexes),
        "ready_s": ready - begun,
        "ready_cpu_s": time.process_time(),
        "imports_s": imported - begun,
        "memory_gib": resident_gib(),
        "shapes": [],
    }
    random = np.random.default_rng(0)
    for num_ranks, num_each, budget in SHAPES:
        plan = make_plan(indexes, num_ranks, num_each, budget)
        steps = random.integers(0, 1_000_000, num_steps + num_seeks).tolist()
        cpu = time.process_time()
        seeks = [clock(plan, step, num_ranks) for step in steps[num_steps:]]
        cpu = (time.process_time() - cpu) / num_seeks
        after = clock(plan, steps[-1] + 1, num_ranks)
        measured = [measure_step(plan, step, num_ranks) for step in steps[:num_steps]]
        figures["shapes"].append(
            {
                "ranks": num_ranks,
                "budget": budget,
                "conversations": plan.conversations_per_step,
                "seek_median_s": statistics.median(seeks),
                "seek_worst_s": max(seeks),
                "seek_cpu_s": cpu,
                "next_s": after,
                "lhotse": measure_lhotse(plan, budget),
                **summarise(measured, budget),
            }
        )
    figures["memory_after_gib"] = resident_gib()
    return figures


def make_renderer() -> Renderer:
    """Real, and small: only its fingerprint matters here."""
    sys.path.insert(0, str(ROOT))
    from tests.tiny import make_tokenizer

    return Renderer(make_tokenizer(), "<|audio|>")


def manifest_of(folder: Path, name: str) -> Path:
    return folder / f"{name}.jsonl"


def open_one(folder: Path, name: str) -> Source:
    return open_source(SourceConfig(name=name, path=str(manifest_of(folder, name))), folder / "cache")


def make_plan(indexes: list[SourceIndex], num_ranks: int, num_each: int, budget: int) -> Plan:
    weights = {name: weight for name, (_, _, weight) in SOURCES.items()}
    blend = Blend(weights, {index.name: len(index) for index in indexes}, seed=1)
    config = PlanConfig(microbatches_per_step=num_ranks * num_each, max_tokens_per_microbatch=budget)
    return Plan(indexes, blend, config)


def clock(plan: Plan, step: int, num_ranks: int) -> float:
    """Seconds until one rank knows its rows of a step."""
    begun = time.perf_counter()
    plan.step(step, step % num_ranks, num_ranks)
    return time.perf_counter() - begun


def resident_gib() -> float:
    """Memory of this process, pages of mapped files included."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024**2


def measure_step(plan: Plan, step: int, num_ranks: int) -> dict[str, float]:
    """Totals of one step over all ranks."""
    ranks = plan.ranks(step, num_ranks)
    costs = [plan.cost([draw for rows in share for row in rows for draw in row]) for share in ranks]
    totals = {"differ": max(costs) / min(costs) - 1, "microbatches": len(ranks) * len(ranks[0])}
    parts = [measure_microbatch(plan, microbatch) for share in ranks for microbatch in share]
    return totals | {key: sum(part[key] for part in parts) for key in parts[0]}


def measure_microbatch(plan: Plan, microbatch: Microbatch) -> dict[str, float]:
    """Tokens and encoder frames, without and with padding; groups of clips."""
    lengths = [[plan.length(draw) for draw in row] for row in microbatch]
    width = max((sum(num_tokens for num_tokens, _ in row) for row in lengths), default=0)
    clips = [num_audio * SAMPLES_PER_TOKEN for row in lengths for _, num_audio in row if num_audio]
    groups = [[clips[i] for i in group] for group in group_by_length(clips)]
    return {
        "tokens": sum(num_tokens for row in lengths for num_tokens, _ in row),
        "area": width * len(lengths),
        "frames": sum(clips),
        "padded_frames": sum(max(group) * len(group) for group in groups),
        "groups": len(groups),
    }


def summarise(steps: list[dict[str, float]], budget: int) -> dict[str, float]:
    """Shares over several steps; of the differences between ranks the worst."""
    total = {key: sum(step[key] for step in steps) for key in steps[0]}
    return {
        "unused": 1 - total["tokens"] / (total["microbatches"] * budget),
        "padding": 1 - total["tokens"] / total["area"],
        "encoder_padding": 1 - total["frames"] / max(1, total["padded_frames"]),
        "groups": total["groups"] / total["microbatches"],
        "differ": max(step["differ"] for step in steps),
    }


def measure_lhotse(plan: Plan, budget: int) -> dict[str, float] | None:
    """The same conversations in batches of Lhotse's sampler; None where it is not installed."""
    if find_spec("lhotse") is None:
        return None
    from lhotse import CutSet
    from lhotse.cut import MonoCut
    from lhotse.dataset import DynamicBucketingSampler

    lengths = []
    for step in range(-(-NUM_LHOTSE_ROWS // plan.conversations_per_step)):
        lengths += [plan.length(draw) for draw in plan.draws(step)]
    cuts = CutSet([MonoCut(id=str(i), start=0, duration=tokens, channel=0) for i, (tokens, _) in enumerate(lengths)])
    sampler = DynamicBucketingSampler(cuts, max_duration=budget, num_buckets=30, shuffle=True)
    batches = [[lengths[int(cut.id)] for cut in batch] for batch in sampler]
    tokens = sum(num_tokens for batch in batches for num_tokens, _ in batch)
    area = sum(max(num_tokens for num_tokens, _ in batch) * len(batch) for batch in batches)
    clips = [[num_audio for _, num_audio in batch if num_audio] for batch in batches]
    return {
        "unused": 1 - tokens / (len(batches) * budget),
        "padding": 1 - tokens / area,
        "encoder_padding": 1 - sum(map(sum, clips)) / sum(max(batch, default=0) * len(batch) for batch in clips),
    }


def report(figures: dict[str, Any]) -> int:
    """Print the tables; 1 where a goal is missed."""
    shapes = figures["shapes"]
    goals = [
        ("from start to the first step's rows", figures["ready_s"], 30, "s"),
        ("resident memory when ready", figures["memory_gib"], 2, "GiB"),
        ("resident memory at the end", figures["memory_after_gib"], 2, "GiB"),
        ("seek to a random step, median", max(shape["seek_median_s"] for shape in shapes), 1, "s"),
        ("seek to a random step, worst", max(shape["seek_worst_s"] for shape in shapes), 1, "s"),
        ("work of ranks differs by at most", 100 * max(shape["differ"] for shape in shapes), 3, "%"),
        ("unused share of the token budget", 100 * max(shape["unused"] for shape in shapes), 2, "%"),
        ("padded share of encoder frames", 100 * max(shape["encoder_padding"] for shape in shapes), 4, "%"),
    ]
    print(
        f"\n{figures['rows']:,} rows, {figures['dropped']:,} of them dropped. Ready after {figures['ready_s']:.1f} s, "
        f"{figures['imports_s']:.1f} s of it imports; {figures['ready_cpu_s']:.1f} s of the processor"
    )
    for name, value, goal, unit in goals:
        print(f"    {name:42}{value:8.2f} {unit:4} goal {goal:3} {'' if value <= goal else 'MISSED'}")
    print(
        f"\n{'ranks':>5}{'budget':>8}{'conversations':>15}{'seek':>8}{'of CPU':>8}{'next':>8}{'ranks differ':>14}"
        f"{'unused':>9}{'padding':>9}{'encoder':>9}{'groups':>8}{'| Lhotse: unused':>17}{'padding':>9}{'encoder':>9}"
    )
    for shape in shapes:
        beside = shape["lhotse"]
        theirs = (
            "  not installed"
            if beside is None
            else "".join(
                f"{beside[key]:{width}.1%}" for key, width in (("unused", 17), ("padding", 9), ("encoder_padding", 9))
            )
        )
        print(
            f"{shape['ranks']:5}{shape['budget']:8}{shape['conversations']:15}{shape['seek_median_s']:7.2f}s"
            f"{shape['seek_cpu_s']:7.2f}s"
            f"{shape['next_s']:7.2f}s{shape['differ']:14.1%}{shape['unused']:9.1%}{shape['padding']:9.1%}"
            f"{shape['encoder_padding']:9.1%}{shape['groups']:8.1f}{theirs}"
        )
    print("Two microbatches for each rank and step. Next: the step after one that was sought. Groups: of clips.")
    print(json.dumps(figures))
    return int(any(value > goal for _, value, goal, _ in goals))


if __name__ == "__main__":
    sys.exit(main())
