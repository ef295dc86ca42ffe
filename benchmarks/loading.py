"""How fast the loader reads and decodes, against a bare loop over the same files with soundfile.

    python benchmarks/loading.py
    python benchmarks/loading.py path/to/folder/with/flac

Without a folder it makes 400 flac files at 16 kHz, 2 to 15 s each. Every way reads every file once in each repeat, in
turn; the median of the ratios within a repeat counts. The loader also reads manifest lines, renders, packs and, from
workers, sends batches to the process that trains.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import soundfile

from voicetextblender.audio.lengths import HOP_LENGTH, SUBSAMPLING_FACTOR, num_audio_tokens
from voicetextblender.audio.waveform import write_waveform
from voicetextblender.data.loader import DataConfig, Loader, build_loader
from voicetextblender.data.measure import Geometry
from voicetextblender.units import SAMPLING_RATE

ROOT = Path(__file__).resolve().parents[1]
CONVERSATIONS_PER_STEP = 16


def main() -> int:
    """Run as a script; exit status 1 below 80 % with one worker."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="flac files at 16 kHz")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or make_files(Path(scratch) / "clips")
        files = [path for path in sorted(folder.rglob("*.flac")) if soundfile.info(path).samplerate == SAMPLING_RATE]
        files = files[: len(files) // CONVERSATIONS_PER_STEP * CONVERSATIONS_PER_STEP]
        audio_s = sum(soundfile.info(path).duration for path in files)
        manifest = write_manifest(files, Path(scratch) / "train.jsonl")
        ways: dict[str, Callable[[], None]] = {"bare": lambda: read_bare(files)}
        for num_workers in (0, 1):
            loader = open_loader(manifest, num_workers, Path(scratch) / "cache")
            ways[f"{num_workers} workers"] = partial(read_all, loader, len(files) // CONVERSATIONS_PER_STEP)
        times: dict[str, list[float]] = {way: [] for way in ways}
        for way in list(ways) * (1 + arguments.repeats):
            started = time.perf_counter()
            ways[way]()
            times[way].append(time.perf_counter() - started)
    times = {way: seconds[1:] for way, seconds in times.items()}  # the first one warms the file cache
    ratios = {
        way: statistics.median(bare / mine for bare, mine in zip(times["bare"], seconds, strict=True))
        for way, seconds in times.items()
    }
    speeds = {way: round(audio_s / statistics.median(seconds)) for way, seconds in times.items()}
    figures = {"files": len(files), "hours": round(audio_s / 3600, 2), "audio_s_per_s": speeds}
    print(json.dumps(figures | {"share_of_bare_speed": {way: round(ratio, 3) for way, ratio in ratios.items()}}))
    return 0 if ratios["1 workers"] >= 0.8 else 1


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
        messages = [{"role": "user", "content": ["?", audio][1:]}, {"role": "assistant", "content": "eight"}]
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


def read_all(loader: Loader, num_steps: int) -> None:
    for loaded in loader.steps(0, num_steps):
        assert loaded.batches and not loaded.failures


if __name__ == "__main__":
    sys.exit(main())
