"""The most memory that ranks take until a model is in shards: where one of them reads it, and where each does.

    python benchmarks/sharded_start.py
    python benchmarks/sharded_start.py --ranks 4 --layers 24

A random LLM in fp32 on the CPU. Printed is what each process takes above what it had when everything was imported: the
most at any time, and what is left in the end.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from salm_worker import forget_peak, memory_bytes

from voicetextblender.model.build import build_composite
from voicetextblender.train.distributed import join_ranks
from voicetextblender.train.parallel import open_composite, parallelise
from voicetextblender.train.recipe import dump_recipe, load_recipe

ROOT = Path(__file__).resolve().parents[1]
WAYS = ("each", "one")


def main() -> None:
    """Run as a script, and as each of its own ranks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--layers", type=int, default=12, help="layers of the LLM, 12.6 million weights each")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)  # who reads, and the recipe: a rank
    arguments = parser.parse_args()
    if arguments.work:
        work(*arguments.work)
        return
    with tempfile.TemporaryDirectory() as folder:
        recipe, size = write_recipe(Path(folder), arguments.layers)
        print(f"weights of the LLM in fp32: {size / 1e9:.2f} GB")
        for readers in WAYS:
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
            command += [str(arguments.ranks), __file__, "--work", readers, str(recipe)]
            subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True)


def write_recipe(folder: Path, num_layers: int) -> tuple[Path, int]:
    """A recipe over a random LLM in `folder`, and the bytes of that."""
    sys.path.insert(0, str(ROOT))
    from tests.tiny import make_encoder, make_llm, make_manifest, make_recipe

    heads = {"num_attention_heads": 16, "num_key_value_heads": 16}
    shape = {"hidden_size": 1024, "intermediate_size": 2730, "num_hidden_layers": num_layers} | heads
    make_llm(folder / "llm", vocab_size=32_000, **shape)
    make_encoder(folder / "encoder")
    make_manifest(folder)
    path = folder / "recipe.yaml"
    path.write_text(dump_recipe(make_recipe(folder, parallel="fsdp")))
    return path, sum(file.stat().st_size for file in (folder / "llm").glob("*.safetensors"))


def work(readers: str, path: str) -> None:
    """A rank: prints what it took."""
    recipe = load_recipe(path)
    with join_ranks("cpu") as ranks:
        forget_peak()
        before = memory_bytes("VmRSS")
        if readers == "each":
            composite = build_composite(recipe.model, recipe.seed)
        else:
            composite = open_composite(recipe.model, recipe.seed, recipe.train, ranks)
        parallelise(composite.model, recipe.train, ranks)
        gc.collect()
        taken = {"peak": memory_bytes("VmHWM") - before, "left": memory_bytes("VmRSS") - before}
        lines = ranks.gather([json.dumps(taken)])
        if ranks.is_first:
            for rank, line in enumerate(map(json.loads, lines)):
                print(
                    f"{readers} reads, rank {rank}: peak {line['peak'] / 1e9:.2f} GB, left {line['left'] / 1e9:.2f} GB"
                )


if __name__ == "__main__":
    main()
