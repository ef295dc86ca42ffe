"""Which rows each step reads after SIGKILL and resume, with several numbers of workers, and on two ranks after one.

    python benchmarks/resume_rows.py
    python benchmarks/resume_rows.py mini train.steps=60 --out runs/resume_rows

Without a recipe it takes tiny random models and 64 rows, one of which cannot be read. An undisturbed run without
workers is the measure. Each other run is killed at random moments; half of them go on with two ranks after the first
kill. The log holds for every step a hash of the rows that were read (source, epoch and row of each, over all ranks).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
from pathlib import Path

from kill_and_resume import kill_at

ROOT = Path(__file__).resolve().parents[1]
WORKERS = (0, 1, 4)
ONE_RANK = (sys.executable, "-m")
TWO_RANKS = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")


def main() -> int:
    """Run as a script; exit status 1 where any step read other rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="values of the recipe to change")
    parser.add_argument("--out", type=Path, default=Path("runs/resume_rows"), help="folder of the runs; must be new")
    parser.add_argument("--kills", type=int, default=2, help="of each run")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True)
    recipe = arguments.recipe or str(make_tiny(arguments.out / "tiny"))
    moments = random.Random(arguments.seed)
    train = ["voicetextblender", "train", recipe, *arguments.overrides]
    undisturbed = arguments.out / "undisturbed"
    subprocess.run([*ONE_RANK, *train, "data.num_workers=0", "--out", str(undisturbed)], check=True)
    expected = rows_of(undisturbed)
    same = {}
    for num_workers in WORKERS:
        for resumed_on in (1, 2):
            run = arguments.out / f"workers{num_workers}_ranks{resumed_on}"
            end = [*train, f"data.num_workers={num_workers}", "--out", str(run)]
            for number, step in enumerate(sorted(moments.sample(range(1, len(expected) - 1), arguments.kills))):
                kill_at(step, [*(TWO_RANKS if number and resumed_on == 2 else ONE_RANK), *end], run / "log.jsonl")
            subprocess.run([*(TWO_RANKS if resumed_on == 2 else ONE_RANK), *end], check=True)
            same[run.name] = sum(a == b for a, b in zip(expected, rows_of(run), strict=True))
    replaced = sum(entry["replaced"] for entry in log_of(undisturbed))
    print(json.dumps({"steps": len(expected), "replaced": replaced, "steps_with_the_same_rows": same}))
    return 0 if all(count == len(expected) for count in same.values()) else 1


def make_tiny(folder: Path) -> Path:
    """A recipe file over tiny models and data; the clip of one row is no audio."""
    sys.path.insert(0, str(ROOT))
    from tests.tiny import make_encoder, make_llm, make_manifest, make_recipe
    from voicetextblender.train.recipe import dump_recipe

    folder.mkdir()
    make_llm(folder / "llm")
    make_encoder(folder / "encoder")
    make_manifest(folder, num_rows=64)
    recipe = make_recipe(folder, steps=30, checkpoint_every=5)
    (folder / "clips/5_0.flac").write_bytes(b"no audio")
    path = folder / "recipe.yaml"
    path.write_text(dump_recipe(recipe))
    return path


def rows_of(run: Path) -> list[str]:
    return [entry["rows"] for entry in log_of(run)]


def log_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
