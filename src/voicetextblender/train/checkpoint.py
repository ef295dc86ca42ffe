"""Checkpoints of an unfinished run: atomic, pruned, exact, and without a pickle; each rank writes its share.

Random numbers of a step follow from the seed and the step, and the data of a step from the plan, so weights, optimizer
and the number of finished steps are the whole state. Tensors are stored in the shards that the ranks hold and read in
those that they need: a run goes on with another number of ranks.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.storage import WriteResult

from voicetextblender.errors import CheckpointError, describe
from voicetextblender.files import write_atomically
from voicetextblender.train.distributed import Ranks

STATE = "state.json"
"""Written last: the step, the recipe, and the sizes of all other files."""
MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW keeps of each parameter, in its shape; beside the number of its steps."""


class CheckpointStore:
    """The checkpoints of one run, in a folder that all its ranks see.

    Args:
        folder: holds one folder per checkpoint.
        run_key: fingerprint of the resolved recipe; a checkpoint of another one is refused.
        keep: newest checkpoints that stay.
        in_background: `save` returns once the tensors are copied to host memory.
    """

    def __init__(self, folder: Path, run_key: str, keep: int, ranks: Ranks, in_background: bool = False) -> None:
        self.folder, self.run_key, self.keep, self.ranks = folder, run_key, keep, ranks
        self.in_background = in_background
        self._saving: tuple[int, Future[Any]] | None = None
        # Apart from the group of the training, which goes on while a checkpoint is written.
        self._group = dist.new_group(backend="gloo") if ranks.num_ranks > 1 else None

    def steps(self) -> list[int]:
        """Finished steps of every complete checkpoint, ascending."""
        names = [re.fullmatch(r"step_(\d+)", entry.name) for entry in self.folder.glob("step_*")]
        return sorted(int(match.group(1)) for match in names if match)

    def newest(self) -> int:
        """Finished steps of the newest complete checkpoint, 0 if there is none; called by every rank, before a save.

        What an interrupted save left is deleted.
        """
        if self.ranks.is_first:
            for leftover in self.folder.glob(".*.partial"):
                shutil.rmtree(leftover)
        return self.ranks.gather([max(self.steps(), default=0)])[0]

    def path(self, step: int) -> Path:
        """Folder of the checkpoint after `step` steps."""
        return self.folder / f"step_{step:08d}"

    def save(self, step: int, parameters: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
        """Write the checkpoint after `step` steps and delete those too old to keep; called by every rank.

        Raises:
            CheckpointError: This one, or the one before in the background, could not be written; what is older is
                untouched.
        """
        self.wait()
        tensors = named_state(parameters, optimizer)
        options: dict[str, Any] = {"storage_writer": _Writer(self, step), "process_group": self._group}
        with self._tell_failed_save(step):
            if self.in_background:
                saving = dcp.async_save(tensors, **options)
                assert isinstance(saving, Future), "the writer copies to host memory itself, before this returns"
                self._saving = step, saving
            else:
                with _without_warnings():
                    dcp.save(tensors, **options)

    def wait(self) -> None:
        """Return when nothing is being written.

        Raises:
            CheckpointError: What was being written in the background could not be.
        """
        if self._saving is not None:
            (step, saving), self._saving = self._saving, None
            with self._tell_failed_save(step):
                saving.result()

    def load(self, step: int, parameters: dict[str, Tensor], optimizer: torch.optim.AdamW) -> None:
        """Bring parameters and optimizer to the checkpoint after `step` steps; called by every rank.

        Raises:
            CheckpointError: A checkpoint that is damaged, of another recipe or of another model.
        """
        folder = self.path(step)
        if _read_state(folder)["run_key"] != self.run_key:
            raise CheckpointError(
                describe(
                    str(folder),
                    "belongs to another recipe",
                    "a run goes on only with its own recipe",
                    "Choose another --out, or take back the change",
                )
            )
        prepare_moments(parameters, optimizer)
        tensors = named_state(parameters, optimizer)
        reader = dcp.HuggingFaceStorageReader(str(folder))
        try:
            _check_same_shapes(tensors, reader.read_metadata(), str(folder))
            with _without_warnings(), _causes_of_failures():
                dcp.load(tensors, storage_reader=reader, process_group=self._group)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(_describe_damage(folder, f"cannot be read ({error})")) from error

    def complete(self, step: int, partial: Path, files: set[str]) -> None:
        """Make what all ranks have written to `partial` the checkpoint after `step` steps, and delete older ones."""
        sizes = {name: (partial / name).stat().st_size for name in sorted(files)}
        with write_atomically(partial / STATE) as temporary:
            temporary.write_text(json.dumps({"step": step, "run_key": self.run_key, "sizes": sizes}))
        shutil.rmtree(self.path(step), ignore_errors=True)
        os.replace(partial, self.path(step))
        for old in self.steps()[: -self.keep]:
            shutil.rmtree(self.path(old))

    def partial(self, step: int) -> Path:
        """Where a checkpoint is until it is whole."""
        return self.folder / f".step_{step:08d}.partial"

    @contextmanager
    def _tell_failed_save(self, step: int) -> Iterator[None]:
        try:
            with _causes_of_failures():
                yield
        except (OSError, SafetensorError) as error:
            shutil.rmtree(self.partial(step), ignore_errors=True)
            raise CheckpointError(_describe_failed_save(self.path(step), error, self.steps())) from error


class _Writer(dcp.HuggingFaceStorageWriter):
    """One file of safetensors for each rank; whole once the first rank knows that all are written."""

    def __init__(self, store: CheckpointStore, step: int) -> None:
        super().__init__(str(store.partial(step)), save_distributed=True)
        self.store, self.step = store, step

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        files = {result.storage_data.relative_path for of_rank in results for result in of_rank}
        self.store.complete(self.step, self.store.partial(self.step), files)


def named_state(parameters: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name: weights, AdamW's moments and number of steps, as this rank holds them."""
    weights = {f"weights.{name}": parameter.detach() for name, parameter in parameters.items()}
    moments = {
        f"optimizer.{name}.{key}": optimizer.state[parameter][key]
        for name, parameter in parameters.items()
        for key in ("step", *MOMENTS)
    }
    return weights | moments


def prepare_moments(parameters: dict[str, Tensor], optimizer: torch.optim.AdamW) -> None:
    """Give every parameter the state that AdamW makes in its first step, for a checkpoint to be read into."""
    is_fused = bool(optimizer.param_groups[0]["fused"])
    for parameter in parameters.values():
        step = torch.zeros((), dtype=torch.float32, device=parameter.device if is_fused else "cpu")
        moments = {key: torch.zeros_like(parameter, requires_grad=False) for key in MOMENTS}
        optimizer.state[parameter] = {"step": step, **moments}


def _read_state(folder: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads((folder / STATE).read_text())
        sizes = state["sizes"]
        assert isinstance(sizes, dict)
    except (OSError, ValueError, KeyError, AssertionError):
        raise CheckpointError(_describe_damage(folder, f"{STATE} is incomplete")) from None
    damaged = [name for name, size in sizes.items() if _size_of(folder / name) != size]
    if damaged:
        raise CheckpointError(_describe_damage(folder, f"{', '.join(damaged)} is incomplete"))
    return state


def _size_of(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _check_same_shapes(tensors: dict[str, Tensor], metadata: Metadata, where: str) -> None:
    stored = {
        name: tuple(entry.size)
        for name, entry in metadata.state_dict_metadata.items()
        if isinstance(entry, TensorStorageMetadata)
    }
    problems = [f"{name} is missing" for name in tensors if name not in stored]
    problems += [f"{name} is surplus" for name in stored if name not in tensors]
    problems += [
        f"{name} has shape {stored[name]}, the model {tuple(tensor.shape)}"
        for name, tensor in tensors.items()
        if name in stored and stored[name] != tuple(tensor.shape)
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


def _describe_damage(folder: Path, found: str) -> str:
    fix = "Delete this folder to go on from the checkpoint before it"
    return describe(str(folder), found, "a whole checkpoint", fix)


def _describe_failed_save(path: Path, error: Exception, kept: list[int]) -> str:
    is_full = (isinstance(error, OSError) and error.errno == errno.ENOSPC) or "No space left" in str(error)
    found = "the disk is full" if is_full else f"the checkpoint cannot be written ({error})"
    last = f"the newest one kept is after step {kept[-1]}" if kept else "none was written before"
    return describe(str(path), found, f"nothing older is lost, {last}", "Free space and start the same command again")


@contextmanager
def _causes_of_failures() -> Iterator[None]:
    """Raise what went wrong itself, on the first of the ranks where something did."""
    try:
        yield
    except CheckpointException as error:
        raise error.failures[min(error.failures)][0] from error


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Without being told that a single process is taken for a single process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield
