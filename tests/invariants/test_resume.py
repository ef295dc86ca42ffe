"""Invariant 7: n steps equal k steps, a kill, a resume and n - k steps, bit for bit."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.tiny import make_recipe
from voicetextblender.errors import RunError
from voicetextblender.evaluate.config import EvaluateConfig, RowConfig
from voicetextblender.files import fingerprint
from voicetextblender.train import loop
from voicetextblender.train.recipe import Recipe, dump_recipe, load_recipe


def final_files(model_dir: Path) -> dict[str, str]:
    return {str(path.relative_to(model_dir)): fingerprint(path) for path in sorted(model_dir.rglob("*.safetensors"))}


class StoppedRun(Exception):
    """Stands for a crash between two steps."""


def train_until(recipe: Recipe, run_dir: Path, stop_at: int) -> None:
    """Train in the way of a run that is killed in step `stop_at`."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loop, "run_step", functools.partial(stopping_step, loop.run_step, stop_at))
        with pytest.raises(StoppedRun):
            loop.train(recipe, run_dir)


def stopping_step(real_step: Callable[..., object], stop_at: int, *arguments: object) -> object:
    if arguments[-1] == stop_at:
        raise StoppedRun
    return real_step(*arguments)


def rows_of(run_dir: Path) -> list[str]:
    return [json.loads(line)["rows"] for line in (run_dir / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("stop_at", [1, 3, 5])
def test_a_run_that_was_stopped_ends_with_the_same_weights(tmp_path: Path, stop_at: int) -> None:
    recipe = make_recipe(tmp_path)
    undisturbed = final_files(loop.train(recipe, tmp_path / "one"))
    train_until(recipe, tmp_path / "two", stop_at)
    assert final_files(loop.train(recipe, tmp_path / "two")) == undisturbed
    assert len((tmp_path / "two" / "log.jsonl").read_text().splitlines()) == recipe.train.steps


def test_every_step_reads_the_same_rows_with_any_workers_after_any_stop(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, checkpoint_every=2)
    (tmp_path / "clips/7_1.flac").write_bytes(b"no audio")
    loop.train(recipe, tmp_path / "undisturbed")
    expected = rows_of(tmp_path / "undisturbed")
    assert len(set(expected)) == recipe.train.steps
    for num_workers in (0, 1, 4):
        data = recipe.data.model_copy(update={"num_workers": num_workers})
        run = tmp_path / f"workers{num_workers}"
        train_until(recipe.model_copy(update={"data": data}), run, 3)
        loop.train(recipe.model_copy(update={"data": data}), run)
        assert rows_of(run) == expected


def test_two_ranks_go_on_with_the_rows_of_one(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, checkpoint_every=2)
    (tmp_path / "clips/7_1.flac").write_bytes(b"no audio")
    loop.train(recipe, tmp_path / "undisturbed")
    train_until(recipe, tmp_path / "run", 3)
    recipe_file = tmp_path / "recipe.yaml"
    recipe_file.write_text(dump_recipe(recipe))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    train = ["voicetextblender", "train", str(recipe_file), "--out", str(tmp_path / "run")]
    subprocess.run([*torchrun, *train], stdout=subprocess.DEVNULL, check=True)
    assert rows_of(tmp_path / "run") == rows_of(tmp_path / "undisturbed")
    told, before = ((tmp_path / run / "unreadable.jsonl").read_text() for run in ("run", "undisturbed"))
    assert told == before


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
    assert rows_of(tmp_path / "two") == rows_of(tmp_path / "one")


def test_a_run_folder_of_another_recipe_is_refused(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, steps=2)
    loop.train(recipe, tmp_path / "run")
    other = Recipe.model_validate(recipe.model_dump() | {"seed": 8})
    with pytest.raises(
        RunError, match=r"holds a run of another recipe:\nseed: 7 -> 8; the same resolved recipe .* Choose"
    ):
        loop.train(other, tmp_path / "run")


def test_what_is_evaluated_may_change_before_and_after_the_end(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, steps=4, checkpoint_every=2)
    evaluate = EvaluateConfig(rows={"new": RowConfig(manifest=tmp_path / "new.jsonl", metrics=("wer",))})
    other = recipe.model_copy(update={"evaluate": evaluate, "description": "the same training"})
    loop.train(recipe, tmp_path / "one")
    train_until(recipe, tmp_path / "two", 3)
    loop.train(other, tmp_path / "two")
    assert final_files(tmp_path / "two" / "model") == final_files(tmp_path / "one" / "model")
    assert rows_of(tmp_path / "two") == rows_of(tmp_path / "one")
    assert load_recipe(tmp_path / "two" / "recipe.yaml") == other
    loop.train(recipe, tmp_path / "two")
    assert load_recipe(tmp_path / "two" / "recipe.yaml") == recipe


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
