"""Reading clips: one worker of the package against a bare `soundfile` loop, on 16 kHz flac.

    python benchmarks/decode.py
    python benchmarks/decode.py --folder path/to/recordings

Whole files, then segments of them (start and duration, as manifests give them), of made noise and, where there are
any, of the recordings in `../shared/data`. Both ways read the same clips in turn, each first every other time, and
every waveform must be the same. The figure is the median of the ratios, in seconds of the processor: the files are in
memory, and other programs may run.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import soundfile

from voicetextblender.audio.waveform import read_waveform, write_waveform
from voicetextblender.units import SAMPLING_RATE

RECORDINGS = Path(__file__).resolve().parents[2] / "shared" / "data"
GOAL = 0.8
NUM_CLIPS = 200
"""Of one reading; where there are fewer files, each is read several times."""

Clip = tuple[str, float, float | None]
"""Path, start, duration; whole files have no duration."""
Read = Callable[[Clip], np.ndarray]


def main() -> int:
    """Run as a script; exit status 1 where the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=RECORDINGS, help="searched for recordings")
    parser.add_argument("--repeats", type=int, default=11, help="how often each way reads all clips")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        ratios = []
        for name, files in (("recordings", find_files(arguments.folder)), ("noise", make_files(Path(temporary)))):
            whole: list[Clip] = [(str(path), 0.0, None) for path in islice(cycle(files), NUM_CLIPS)]
            parts: list[Clip] = [(path, 0.25, soundfile.info(path).duration - 0.5) for path, _, _ in whole]
            for what, clips in (("whole", whole), ("segments", parts)):
                ratios += [report(f"{name}, {what}", clips, arguments.repeats)] if clips else []
    return int(min(ratios) < GOAL)


def find_files(folder: Path) -> list[Path]:
    """Flac files at 16 kHz, of at least a second."""
    return list(islice((path for path in sorted(folder.rglob("*.flac")) if is_usable(path)), NUM_CLIPS))


def is_usable(path: Path) -> bool:
    info = soundfile.info(str(path))
    return bool(info.samplerate == SAMPLING_RATE and info.channels == 1 and info.duration >= 1)


def make_files(folder: Path) -> list[Path]:
    """Noise in the shape of speech, 2 to 20 s."""
    random = np.random.default_rng(0)
    paths = [folder / f"{number}.flac" for number in range(50)]
    for path in paths:
        num_samples = int(random.uniform(2, 20) * SAMPLING_RATE)
        loudness = np.abs(np.sin(np.arange(num_samples) / 1600)) * 0.1
        write_waveform(path, (random.normal(size=num_samples) * loudness).astype(np.float32))
    return paths


def read_bare(clip: Clip) -> np.ndarray:
    """What anyone writes who has nothing but soundfile."""
    path, start_s, duration_s = clip
    start = round(start_s * SAMPLING_RATE)
    frames = -1 if duration_s is None else round(duration_s * SAMPLING_RATE)
    return soundfile.read(path, start=start, frames=frames, dtype="float32")[0]


def read_ours(clip: Clip) -> np.ndarray:
    path, start_s, duration_s = clip
    return read_waveform(path, start_s=start_s, duration_s=duration_s)


def report(name: str, clips: Sequence[Clip], num_repeats: int) -> float:
    """Print the speed of both ways, and return the median of ours to the bare one's."""
    seconds = sum(len(read_bare(clip)) for clip in clips) / SAMPLING_RATE
    for clip in clips:
        assert np.array_equal(read_bare(clip), read_ours(clip)), clip
    times = [
        (clock(read_bare, clips), clock(read_ours, clips)) if repeat % 2 else
        (clock(read_ours, clips), clock(read_bare, clips))[::-1]
        for repeat in range(num_repeats)
    ]  # fmt: skip
    ratios = [bare / ours for bare, ours in times]
    speeds = [seconds / statistics.median(column) for column in zip(*times, strict=True)]
    ratio = statistics.median(ratios)
    print(
        f"{name:22}{len(clips)} clips of {seconds / len(clips):4.1f} s: soundfile {speeds[0]:5,.0f} x real time, ours "
        f"{speeds[1]:5,.0f} x; ratio {ratio:6.1%} ({min(ratios):.1%} to {max(ratios):.1%} of {num_repeats}); "
        f"goal {GOAL:.0%}"
    )
    return ratio


def clock(read: Read, clips: Sequence[Clip]) -> float:
    begun = time.process_time()
    for clip in clips:
        read(clip)
    return time.process_time() - begun


if __name__ == "__main__":
    sys.exit(main())
