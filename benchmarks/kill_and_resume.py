"""Kill a training with SIGKILL at random moments, resume it, and compare its weights byte for byte with another run's.

    python benchmarks/kill_and_resume.py mini --reference runs/mini/joint --out runs/killed
    python benchmarks/kill_and_resume.py mini seed=1 --out runs/killed

`--reference` is a finished, undisturbed run of the same recipe on the same machine; without it one is trained first.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from voicetextblender.files import fingerprint


def main() -> int:
    """Run as a script; exit status 1 where any byte differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="values of the recipe to change")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run that is killed")
    parser.add_argument("--reference", type=Path, help="an undisturbed run of the same recipe")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    reference = arguments.reference or arguments.out.with_name(arguments.out.name + "-undisturbed")
    train = [sys.executable, "-m", "voicetextblender", "train", arguments.recipe, *arguments.overrides, "--out"]
    if not (reference / "model").is_dir():
        subprocess.run([*train, str(reference)], check=True)
    num_steps = len((reference / "log.jsonl").read_text().splitlines())
    moments = sorted(random.Random(arguments.seed).sample(range(1, num_steps), arguments.kills))
    for step in moments:
        kill_at(step, [*train, str(arguments.out)], arguments.out / "log.jsonl")
    subprocess.run([*train, str(arguments.out)], check=True)
    same = {
        path.name: fingerprint(path) == fingerprint(arguments.out / "model" / path.relative_to(reference / "model"))
        for path in sorted((reference / "model").rglob("*.safetensors"))
    }
    print(json.dumps({"steps": num_steps, "killed_in_step": moments, "same_bytes": same}))
    return 0 if same and all(same.values()) else 1


def kill_at(step: int, command: list[str], log: Path) -> None:
    """Start `command` and kill it once its log has the line of `step`."""
    process = subprocess.Popen(command)
    while process.poll() is None:
        if log.exists() and last_step(log) >= step:
            process.send_signal(signal.SIGKILL)
            process.wait()
            print(f"killed in step {last_step(log) + 1}", flush=True)
            return
        time.sleep(0.05)
    raise SystemExit(f"the training ended with status {process.returncode} before step {step}")


def last_step(log: Path) -> int:
    """The step of the last whole line, -1 when there is none."""
    lines = log.read_bytes().split(b"\n")[:-1]
    return int(json.loads(lines[-1])["step"]) if lines else -1


if __name__ == "__main__":
    sys.exit(main())
