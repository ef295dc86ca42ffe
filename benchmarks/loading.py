"""What the loader costs, against a bare loop over the same files with soundfile.

    python benchmarks/loading.py
    python benchmarks/loading.py path/to/folder/with/flac

Without a folder it makes 400 flac files at 16 kHz, 2 to 15 s each. In each repeat every way reads every file eight
times, one way after the other; the median of the ratios within a repeat counts. They are of seconds of the processor,
of all processes together, since other programs may run, and of the clock beside them. The loader also plans, reads
manifest lines, renders, packs and, from a worker, hands batches to the process that trains; the start of the worker
counts too. Steps that are made under a time limit stand beside the same steps without one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile

from voicetextblender.audio.lengths import HOP_LENGTH, SUBSAMPLING_FACTOR, num_audio_tokens
from voicetextblender.audio.waveform import write_waveform
from voicetextblender.data.loader import DataConfig, Loader, build_loader
from voicetextblender.data.measure import Geometry
from voicetextblender.units import SAMPLING_RATE

ROOT = Path(__file__).resolve().parents[1]
CONVERSATIONS_PER_STEP = 16
PASSES = 8
"""Over all files in each repeat: a training starts its workers once."""


def main() -> int:
    """Run as a script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="flac files at 16 kHz")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or make_files(Path(scratch) / "clips")
        files = [path for path in sorted(folder.rglob("*.flac")) if soundfile.info(path).samplerate == SAMPLING_RATE]
        files = files[: len(files) // CONVERSATIONS_PER_STEP * CONVERSATIONS_PER_STEP]
        audio_s = PASSES * sum(soundfile.info(path).duration for path in files)
        manifest = write_manifest(files, Path(scratch) / "train.jsonl")
        num_steps = PASSES * len(files) // CONVERSATIONS_PER_STEP
        here, worker = (open_loader(manifest, number, Path(scratch) / "cache") for number in (0, 1))
        ways: dict[str, Callable[[], None]] = {
            "bare": partial(read_bare, files * PASSES),
            "no time limit": partial(read_unguarded, here, num_steps),
            "0 workers": partial(read_all, here, num_steps),
            "1 worker": partial(read_all, worker, num_steps),
        }
        used: dict[str, list[Seconds]] = {way: [] for way in ways}
        for way in list(ways) * (1 + arguments.repeats):
            before = read_clocks()
            ways[way]()
            used[way].append(Seconds(*(after - start for after, start in zip(read_clocks(), before, strict=True))))
    for seconds in used.values():
        del seconds[0]  # the first time warms the file cache
    shown: dict[str, Any] = {"files": len(files), "passes": PASSES, "repeats": arguments.repeats}
    for clock in Seconds._fields:
        times = {way: [getattr(one, clock) for one in seconds] for way, seconds in used.items()}
        shown[f"audio_s_per_{clock}_s"] = {way: round(audio_s / statistics.median(all_)) for way, all_ in times.items()}
        shown[f"share_of_bare_speed_by_{clock}"] = {
            way: round(statistics.median(bare / mine for bare, mine in zip(times["bare"], all_, strict=True)), 3)
            for way, all_ in times.items()
        }
    print(json.dumps(shown))
    return 0


class Seconds(NamedTuple):
    """Of the processor, in this process and those that it has ended, and of the clock."""

    processor: float
    clock: float


def read_clocks() -> Seconds:
    times = os.times()
    return Seconds(times.user + times.system + times.children_user + times.children_system, time.perf_counter())


def make_files(folder: Path, num_files: int = 400) -> Path:
    """Noise of the loudness of speech that comes and goes."""
    random = np.random.default_rng(0)
    for number in range(num_files):
        num_samples = int(random.uniform(2, 15) * SAMPLING_RATE)
        envelope = 0.02 + 0.1 * np.abs(np.sin(np.arange(num_samples) / 3000))
        write_waveform(folder / f"{number}.flac", (random.normal(size=num_samples) * envelope).astype(np.float32))
    return folder


def write_manifest(files: list[Path], path: Path) -> Path:
    rows = []
    for number, file in enumerate(files):
        audio = {"type": "audio", "path": str(file.resolve()), "duration": soundfile.info(file).duration}
        messages = [{"role": "user", "content": [audio]}, {"role": "assistant", "content": "eight"}]
        rows.append(json.dumps({"id": str(number), "task": "transcription", "messages": messages}))
    path.write_text("\n".join(rows) + "\n")
    return path


def open_loader(manifest: Path, num_workers: int, cache_dir: Path) -> Loader:
    sys.path.insert(0, str(ROOT))
    from tests.tiny import make_tokenizer
    from voicetextblender.chat.render import Renderer

    config = DataConfig.model_validate(
        {
            "sources": [{"name": "clips", "path": str(manifest)}],
            "conversations_per_step": CONVERSATIONS_PER_STEP,
            "max_clip_s": 1000.0,
            "max_conversation_tokens": 4096,
            "num_workers": num_workers,
            "cache_dir": str(cache_dir),
        }
    )
    geometry = Geometry(num_audio_tokens, f"{HOP_LENGTH}/{SUBSAMPLING_FACTOR}")
    return build_loader(config, Renderer(make_tokenizer(), "<|audio|>"), geometry, seed=0)


def read_bare(files: list[Path]) -> None:
    for path in files:
        soundfile.read(path, dtype="float32")


def read_unguarded(loader: Loader, num_steps: int) -> None:
    for step in range(num_steps):
        assert loader.load(step)


def read_all(loader: Loader, num_steps: int) -> None:
    for loaded in loader.steps(0, num_steps):
        assert loaded.batches and not loaded.failures


if __name__ == "__main__":
    sys.exit(main())
