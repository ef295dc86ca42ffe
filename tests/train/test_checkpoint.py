"""Checkpoints: atomic, pruned, refused when damaged or of another model; a full disk loses nothing."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from voicetextblender.errors import CheckpointError
from voicetextblender.train import checkpoint
from voicetextblender.train.checkpoint import CheckpointStore
from voicetextblender.train.distributed import Ranks

ALONE = Ranks(0, 1, torch.device("cpu"))
TENSORS = "shard-00001-model-00001-of-00001.safetensors"
"""The file of a single rank."""


def make_state(size: int = 3) -> tuple[dict[str, Tensor], torch.optim.AdamW]:
    torch.manual_seed(0)
    parameters: dict[str, Tensor] = {
        "a": torch.nn.Parameter(torch.randn(size, size)),
        "b": torch.nn.Parameter(torch.randn(size)),
    }
    optimizer = torch.optim.AdamW(list(parameters.values()), lr=0.1, fused=True)
    advance(parameters, optimizer)
    return parameters, optimizer


def advance(parameters: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
    for parameter in parameters.values():
        parameter.grad = torch.sin(parameter.detach())
    optimizer.step()


def test_a_loaded_checkpoint_goes_on_exactly(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, "key", 2, ALONE)
    parameters, optimizer = make_state()
    store.save(4, parameters, optimizer)
    others, other_optimizer = make_state()
    assert store.newest() == 4
    store.load(4, others, other_optimizer)
    for _ in range(3):
        advance(parameters, optimizer)
        advance(others, other_optimizer)
    assert all(torch.equal(parameters[name], others[name]) for name in parameters)


def test_a_checkpoint_in_the_background_holds_the_step_it_was_asked_for(tmp_path: Path) -> None:
    parameters, optimizer = make_state(300)
    CheckpointStore(tmp_path / "now", "key", 2, ALONE).save(4, parameters, optimizer)
    store = CheckpointStore(tmp_path / "later", "key", 2, ALONE, in_background=True)
    store.save(4, parameters, optimizer)
    advance(parameters, optimizer)
    store.wait()
    assert store.newest() == 4
    now, later = (load_file(tmp_path / when / "step_00000004" / TENSORS) for when in ("now", "later"))
    assert now.keys() == later.keys() and all(torch.equal(now[name], later[name]) for name in now)
    assert not torch.equal(later["weights.a"], parameters["a"])


def test_a_checkpoint_in_the_background_that_fails_is_told(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file, where a folder should be made")
    store = CheckpointStore(tmp_path / "checkpoints", "key", 2, ALONE, in_background=True)
    store.save(4, *make_state())
    with pytest.raises(CheckpointError, match=r"step_00000004: the checkpoint cannot be written .*; nothing older is"):
        store.wait()


def test_old_checkpoints_go_and_leftovers_too(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, "key", 2, ALONE)
    state = make_state()
    assert store.newest() == 0
    for step in (1, 2, 10):
        store.save(step, *state)
    assert store.steps() == [2, 10]
    (tmp_path / ".step_00000011.partial").mkdir()
    assert store.newest() == 10
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["step_00000002", "step_00000010"]


def test_a_checkpoint_of_another_recipe_or_model_is_refused(tmp_path: Path) -> None:
    CheckpointStore(tmp_path, "key", 2, ALONE).save(4, *make_state())
    with pytest.raises(
        CheckpointError, match=r"step_00000004: belongs to another recipe; a run goes on only with its own"
    ):
        CheckpointStore(tmp_path, "other", 2, ALONE).load(4, *make_state())
    with pytest.raises(
        CheckpointError,
        match=r"6 tensors do not fit: weights.a has shape \(3, 3\), the model \(4, 4\); weights.b has shape",
    ):
        CheckpointStore(tmp_path, "key", 2, ALONE).load(4, *make_state(4))


@pytest.mark.parametrize("name", [TENSORS, "state.json"])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, name: str) -> None:
    store = CheckpointStore(tmp_path, "key", 2, ALONE)
    store.save(4, *make_state())
    path = store.path(4) / name
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(
        CheckpointError, match=rf"{name} is incomplete; a whole checkpoint\. Delete this folder to go on"
    ):
        store.load(4, *make_state())


def test_a_checkpoint_that_was_changed_is_refused(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, "key", 2, ALONE)
    store.save(4, *make_state())
    path = store.path(4) / TENSORS
    path.write_bytes(b"\xff" * path.stat().st_size)
    with pytest.raises(CheckpointError, match=r"step_00000004: cannot be read \(.*\); a whole checkpoint\. Delete"):
        store.load(4, *make_state())


def test_an_interrupted_save_leaves_the_older_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CheckpointStore(tmp_path, "key", 1, ALONE)
    store.save(4, *make_state())

    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        store.save(8, *make_state())
    monkeypatch.undo()
    assert store.newest() == 4


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        store = CheckpointStore(disk / "checkpoints", "key", 2, ALONE)
        store.save(4, *make_state(50))
        with pytest.raises(
            CheckpointError, match=r"the disk is full; nothing older is lost, the newest one kept is after step 4"
        ):
            store.save(8, *make_state(300))
        assert store.newest() == 4
        store.load(4, *make_state(50))
        assert [entry.name for entry in (disk / "checkpoints").iterdir()] == ["step_00000004"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_the_state_names_its_step(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, "key", 2, ALONE)
    store.save(12, *make_state())
    assert json.loads((store.path(12) / "state.json").read_text())["step"] == 12
