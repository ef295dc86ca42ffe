"""Invariant 7 on two ranks: one is killed, `torchrun` starts all again, and the run ends with the same weights."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.ranks import start_ranks
from tests.tiny import make_recipe
from voicetextblender.files import fingerprint
from voicetextblender.model.weights import load_composite
from voicetextblender.train import loop
from voicetextblender.train.recipe import dump_recipe

STEPS = 12
DEADLINE_S = 200.0


def final_files(model_dir: Path) -> dict[str, str]:
    return {str(path.relative_to(model_dir)): fingerprint(path) for path in sorted(model_dir.rglob("*.safetensors"))}


def find_rank(launcher: subprocess.Popen[bytes], rank: int) -> int:
    """Process id of a rank that `torchrun` started."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    wanted = f"RANK={rank}".encode()
    return next(int(child) for child in children if wanted in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the processes of the ranks in /proc")
def test_a_killed_rank_is_started_again_and_nothing_changes(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, steps=STEPS, parallel="fsdp", async_checkpoints=True)
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    start_ranks(2, loop.train, recipe, tmp_path / "one")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["--max-restarts", "1", "-m", "voicetextblender", "train", str(tmp_path / "recipe.yaml")]
    checkpoints, output = tmp_path / "two/checkpoints", tmp_path / "output.txt"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with output.open("wb") as file:
        launcher = subprocess.Popen(
            [*command, "--out", str(tmp_path / "two")], stdout=file, stderr=subprocess.STDOUT, env=environment
        )
        deadline = time.monotonic() + DEADLINE_S
        while launcher.poll() is None and time.monotonic() < deadline:
            if list(checkpoints.glob("step_*")):
                os.kill(find_rank(launcher, 1), signal.SIGKILL)
                break
            time.sleep(0.01)
        assert launcher.wait(timeout=DEADLINE_S) == 0, output.read_text()
    assert "exitcode: -9" in output.read_text() and "resumes after step" in output.read_text()
    assert len((tmp_path / "two/log.jsonl").read_text().splitlines()) == STEPS
    assert final_files(tmp_path / "two/model") == final_files(tmp_path / "one/model")
    assert load_composite(tmp_path / "two/model").model.lm_head.weight.shape[0] > 0
