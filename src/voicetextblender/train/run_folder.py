"""The folder of a run: whose recipe it holds, who writes to it, and what is needed to read its results later."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from voicetextblender.errors import RunError, describe, describe_many
from voicetextblender.files import write_atomically
from voicetextblender.train.distributed import Ranks
from voicetextblender.train.recipe import BESIDE_TRAINING, Recipe, dump_recipe, load_recipe, recipe_differences

PACKAGES = ("voicetextblender", "torch", "transformers", "peft", "safetensors", "numpy", "soundfile", "soxr")
"""Whose versions a run keeps."""


@contextmanager
def open_run(run_dir: Path, recipe: Recipe, ranks: Ranks) -> Iterator[None]:
    """Hold the run folder for writing; it is created, or must belong to the same resolved recipe.

    What is `BESIDE_TRAINING` may differ, and the folder keeps it as it is now. The first rank holds it for all of them.

    Raises:
        RunError: Another process writes to it, or it holds a run of another recipe.
    """
    if not ranks.is_first:
        yield
        return
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / ".lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise RunError(
                describe(
                    str(run_dir),
                    f"is in use by process {lock.read().strip() or '?'}",
                    "one process per run folder",
                    "Wait for it, stop it, or choose another --out",
                )
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        _claim(run_dir, recipe)
        yield


def _claim(run_dir: Path, recipe: Recipe) -> None:
    path = run_dir / "recipe.yaml"
    if not path.exists():
        _write_recipe(path, recipe)
        write_json(run_dir / "environment.json", describe_environment())
        return
    changed = recipe_differences(load_recipe(path), recipe)
    if differences := [line for line in changed if re.split(r"[.:]", line)[0] not in BESIDE_TRAINING]:
        raise RunError(
            describe(
                str(run_dir),
                f"holds a run of another recipe:\n{describe_many(differences)}",
                "the same resolved recipe as the run began with",
                "Choose another --out, or take back the change",
            )
        )
    if changed:
        _write_recipe(path, recipe)


def _write_recipe(path: Path, recipe: Recipe) -> None:
    with write_atomically(path) as temporary:
        temporary.write_text(dump_recipe(recipe))


def describe_environment() -> dict[str, Any]:
    """Versions, commit and machine, for the record of a run."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": {package: version(package) for package in PACKAGES},
        "commit": _commit(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
    }


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    with write_atomically(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _commit() -> str | None:
    """Commit of the checkout that this package runs from, `-dirty` where it has changes; None without a checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        tracked = subprocess.run([*git, "ls-files", "--error-unmatch", __file__], capture_output=True, check=False)
        if tracked.returncode != 0:
            return None
        described = subprocess.run(
            [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return None
    return described.stdout.strip() or None
