"""How long a step of training waits for its data: the recipe `mini`, with the model computing and workers reading.

    vtb prepare mini
    python benchmarks/waiting.py
    python benchmarks/waiting.py --recipe mini --steps 60 --workers 0 1 2

Trains the first steps once for each number of workers and reads `data_wait_s` from the log. The first steps are left
out: workers start and memory is taken for the first time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

from voicetextblender.train.loop import train
from voicetextblender.train.recipe import load_recipe

LEFT_OUT = 10
"""Steps at the start."""


def main() -> int:
    """Run as a script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="mini")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    print("workers  step, median  waiting, median  waiting, longest  share of the time waiting")
    with tempfile.TemporaryDirectory() as scratch:
        for num_workers in arguments.workers:
            run_dir = Path(scratch) / str(num_workers)
            overrides = [f"train.steps={LEFT_OUT + arguments.steps}", f"data.num_workers={num_workers}"]
            train(load_recipe(arguments.recipe, [*overrides, f"data.cache_dir={scratch}/cache"]), run_dir)
            steps = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()][LEFT_OUT:]
            took, waited = ([step[name] for step in steps] for name in ("step_s", "data_wait_s"))
            print(
                f"{num_workers:7d}  {1e3 * statistics.median(took):9.1f} ms  {1e3 * statistics.median(waited):12.2f} ms"
                f"  {1e3 * max(waited):13.2f} ms  {sum(waited) / sum(took):27.2%}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
