"""Checkpoints of an unfinished run: atomic, pruned, exact, and without a pickle.

Random numbers of a step follow from the seed and the step, and the data of a step from the plan, so weights, optimizer
and the number of finished steps are the whole state.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from voicetextblender.errors import CheckpointError, describe

STATE, WEIGHTS, OPTIMIZER = "state.json", "weights.safetensors", "optimizer.safetensors"
MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW keeps of each parameter."""


@dataclass(frozen=True)
class CheckpointStore:
    """The checkpoints of one run.

    Args:
        folder: holds one folder per checkpoint.
        run_key: fingerprint of the resolved recipe; a checkpoint of another one is refused.
        keep: newest checkpoints that stay.
    """

    folder: Path
    run_key: str
    keep: int

    def steps(self) -> list[int]:
        """Finished steps of every complete checkpoint, ascending."""
        names = [re.fullmatch(r"step_(\d+)", entry.name) for entry in self.folder.glob("step_*")]
        return sorted(int(match.group(1)) for match in names if match)

    def path(self, step: int) -> Path:
        """Folder of the checkpoint after `step` steps."""
        return self.folder / f"step_{step:08d}"

    def save(self, step: int, parameters: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
        """Write the checkpoint after `step` steps and delete those too old to keep.

        Raises:
            CheckpointError: The disk is full; older checkpoints are untouched.
        """
        partial = self.folder / f".step_{step:08d}.partial"
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            _save_tensors({name: p.detach() for name, p in parameters.items()}, partial / WEIGHTS)
            _save_tensors(optimizer_state(parameters, optimizer), partial / OPTIMIZER)
            sizes = {name: (partial / name).stat().st_size for name in (WEIGHTS, OPTIMIZER)}
            _write_synced(partial / STATE, json.dumps({"step": step, "run_key": self.run_key, "sizes": sizes}))
            shutil.rmtree(self.path(step), ignore_errors=True)
            os.replace(partial, self.path(step))
        except (OSError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise CheckpointError(_describe_failed_save(self.path(step), error, self.steps())) from error
        for old in self.steps()[: -self.keep]:
            shutil.rmtree(self.path(old))

    def load_newest(self, parameters: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> int:
        """Bring parameters and optimizer to the newest checkpoint; returns its finished steps, 0 if there is none.

        Raises:
            CheckpointError: A checkpoint that is damaged, of another recipe or of another model.
        """
        for leftover in self.folder.glob(".*.partial"):
            shutil.rmtree(leftover)
        if not (steps := self.steps()):
            return 0
        folder = self.path(steps[-1])
        state = _read_state(folder)
        if state["run_key"] != self.run_key:
            raise CheckpointError(
                describe(
                    str(folder),
                    "belongs to another recipe",
                    "a run goes on only with its own recipe",
                    "Choose another --out, or take back the change",
                )
            )
        weights, moments = load_file(folder / WEIGHTS), load_file(folder / OPTIMIZER)
        _check_same_shapes(parameters, weights, str(folder / WEIGHTS))
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(weights[name])
        for name, parameter in parameters.items():
            if f"{name}.step" in moments:
                optimizer.state[parameter] = {
                    key: moments[f"{name}.{key}"].to(parameter.device if key != "step" or _fused(optimizer) else "cpu")
                    for key in MOMENTS
                }
        return int(state["step"])


def optimizer_state(parameters: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """AdamW's moments by parameter name; a parameter that never had a gradient has none."""
    return {
        f"{name}.{key}": optimizer.state[parameter][key]
        for name, parameter in parameters.items()
        if parameter in optimizer.state
        for key in MOMENTS
    }


def _fused(optimizer: torch.optim.Optimizer) -> bool:
    return bool(optimizer.param_groups[0].get("fused"))


def _read_state(folder: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads((folder / STATE).read_text())
        sizes = state["sizes"]
        assert isinstance(sizes, dict)
        damaged = [name for name, size in sizes.items() if (folder / name).stat().st_size != size]
    except (OSError, ValueError, KeyError, AssertionError):
        damaged = [STATE]
    if damaged:
        raise CheckpointError(
            describe(
                str(folder),
                f"{', '.join(damaged)} is incomplete",
                "a whole checkpoint",
                "Delete this folder to go on from the checkpoint before it",
            )
        )
    return state


def _check_same_shapes(parameters: dict[str, Tensor], weights: dict[str, Tensor], where: str) -> None:
    problems = [f"{name} is missing" for name in parameters if name not in weights]
    problems += [f"{name} is surplus" for name in weights if name not in parameters]
    problems += [
        f"{name} has shape {tuple(weights[name].shape)}, the model {tuple(parameter.shape)}"
        for name, parameter in parameters.items()
        if name in weights and weights[name].shape != parameter.shape
    ]
    if problems:
        raise CheckpointError(
            describe(
                where,
                f"{len(problems)} tensors do not fit: {'; '.join(problems[:5])}",
                "a checkpoint of this model",
                "Choose another --out, or the model that the run began with",
            )
        )


def _save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, path)
    _sync(path)


def _write_synced(path: Path, text: str) -> None:
    path.write_text(text)
    _sync(path)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _describe_failed_save(path: Path, error: Exception, kept: list[int]) -> str:
    is_full = (isinstance(error, OSError) and error.errno == errno.ENOSPC) or "No space left" in str(error)
    found = "the disk is full" if is_full else f"the checkpoint cannot be written ({error})"
    last = f"the newest one kept is after step {kept[-1]}" if kept else "none was written before"
    return describe(str(path), found, f"nothing older is lost, {last}", "Free space and start the same command again")
