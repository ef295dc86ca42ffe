"""Invariant 7: n steps equal k steps, a kill, a resume and n - k steps, bit for bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.tiny import make_recipe
from voicetextblender.errors import RunError
from voicetextblender.files import fingerprint
from voicetextblender.train import loop
from voicetextblender.train.recipe import Recipe, dump_recipe


def final_files(model_dir: Path) -> dict[str, str]:
    return {str(path.relative_to(model_dir)): fingerprint(path) for path in sorted(model_dir.rglob("*.safetensors"))}


class StoppedRun(Exception):
    """Stands for a crash between two steps."""


@pytest.mark.parametrize("stop_at", [1, 3, 5])
def test_a_run_that_was_stopped_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    recipe = make_recipe(tmp_path)
    undisturbed = final_files(loop.train(recipe, tmp_path / "one"))
    real_step = loop.run_step

    def stopping_step(*arguments: object) -> object:
        if arguments[-1] == stop_at:
            raise StoppedRun
        return real_step(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "run_step", stopping_step)
    with pytest.raises(StoppedRun):
        loop.train(recipe, tmp_path / "two")
    monkeypatch.setattr(loop, "run_step", real_step)
    assert final_files(loop.train(recipe, tmp_path / "two")) == undisturbed
    assert len((tmp_path / "two" / "log.jsonl").read_text().splitlines()) == recipe.train.steps


def test_sigkill_and_resume_give_the_same_weights(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, steps=30)
    undisturbed = final_files(loop.train(recipe, tmp_path / "one"))
    recipe_file = tmp_path / "recipe.yaml"
    recipe_file.write_text(dump_recipe(recipe))
    command = [sys.executable, "-m", "voicetextblender", "train", str(recipe_file), "--out", str(tmp_path / "two")]
    for kill_after in (4, 13, 22):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ))
        log = tmp_path / "two" / "log.jsonl"
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if log.exists() and len(log.read_text().splitlines()) >= kill_after:
                process.send_signal(signal.SIGKILL)
            time.sleep(0.01)
        assert process.wait() in (-signal.SIGKILL, 0)
    assert subprocess.run(command, stdout=subprocess.DEVNULL, check=True).returncode == 0
    assert final_files(tmp_path / "two" / "model") == undisturbed


def test_a_run_folder_of_another_recipe_is_refused(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, steps=2)
    loop.train(recipe, tmp_path / "run")
    other = Recipe.model_validate(recipe.model_dump() | {"seed": 8})
    with pytest.raises(
        RunError, match=r"holds a run of another recipe:\nseed: 7 -> 8; the same resolved recipe .* Choose"
    ):
        loop.train(other, tmp_path / "run")


def test_a_run_folder_in_use_is_refused(tmp_path: Path) -> None:
    import fcntl

    recipe = make_recipe(tmp_path, steps=2)
    (tmp_path / "run").mkdir()
    with (tmp_path / "run" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RunError, match=r"run: is in use by process .*; one process per run folder\. Wait for it"):
            loop.train(recipe, tmp_path / "run")


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, steps=2)
    before = final_files(loop.train(recipe, tmp_path / "run"))
    times = (tmp_path / "run" / "model" / "speech.safetensors").stat().st_mtime_ns
    assert final_files(loop.train(recipe, tmp_path / "run")) == before
    assert (tmp_path / "run" / "model" / "speech.safetensors").stat().st_mtime_ns == times
    assert load_file(tmp_path / "run" / "model" / "speech.safetensors")
