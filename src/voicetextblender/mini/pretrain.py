"""The small loop that pretrains the two base models of the embedded world: resumable, and the same to the last bit.

The joint training of a recipe does not use it; it has its own loop.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from voicetextblender.config import StrictConfig
from voicetextblender.errors import CheckpointError, describe
from voicetextblender.files import derive_seed, write_atomically

LOG_EVERY = 50
"""Steps between two plain lines where there is no terminal."""


class PretrainConfig(StrictConfig):
    """How long and how fast one base model learns."""

    steps: int
    learning_rate: float
    final_learning_rate: float = 0.0
    warmup_steps: int = 50
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    max_grad_norm: float = 1.0
    checkpoint_every: int = 100
    seed: int = 0


def learning_rate_at(step: int, config: PretrainConfig) -> float:
    """Linear warm-up over `warmup_steps`, then a cosine to `final_learning_rate` at the last step."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    span = config.learning_rate - config.final_learning_rate
    return config.final_learning_rate + span * 0.5 * (1.0 + math.cos(math.pi * progress))


def fit(
    model: torch.nn.Module,
    step_loss: Callable[[int], torch.Tensor],
    config: PretrainConfig,
    *,
    checkpoint: Path,
    label: str,
    data_key: str = "",
    console: Console | None = None,
) -> list[float]:
    """Train `model` in place and return the loss of every step.

    An interrupted run continues from `checkpoint` and ends with the very same weights; the caller deletes that file
    once the model is saved. Random numbers drawn in `step_loss` are keyed by the step.

    Args:
        step_loss: gives the scalar loss of a step; what it computes must follow from the step number alone.
        checkpoint: file of the unfinished run, rewritten whole every `checkpoint_every` steps.
        label: what the progress bar and the lines are called.
        data_key: what else `step_loss` depends on; a checkpoint made with another one is refused.

    Raises:
        CheckpointError: the checkpoint belongs to a run of another model, configuration or data.
        FloatingPointError: a loss or a gradient is not finite; the weights are those before that step.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        parameter_groups(model, config.weight_decay), lr=config.learning_rate, betas=config.betas, fused=True
    )
    key = run_key(model, config, data_key)
    losses = load_checkpoint(checkpoint, model, optimizer, key)
    model.train()
    with StepLog(label, config.steps, len(losses), console or Console()) as log:
        for step in range(len(losses), config.steps):
            torch.manual_seed(derive_seed("pretrain", config.seed, step))
            for group in optimizer.param_groups:
                group["lr"] = learning_rate_at(step, config)
            loss = step_loss(step)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
            if not bool(torch.isfinite(loss)) or not bool(torch.isfinite(norm)):
                raise FloatingPointError(f"{label} step {step}: loss {loss.item()}, gradient norm {norm.item()}.")
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.item())
            log.advance(losses)
            if len(losses) % config.checkpoint_every == 0 or len(losses) == config.steps:
                save_checkpoint(checkpoint, model, optimizer, key, losses)
    model.eval()
    return losses


def write_losses(path: Path, losses: Sequence[float]) -> None:
    """Keep the loss of every step in the form of a run's log, for the report."""
    with write_atomically(path) as temporary:
        temporary.write_text(
            "".join(json.dumps({"step": step, "loss": loss}) + "\n" for step, loss in enumerate(losses))
        )


def parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Weight decay for matrices alone; norms, biases and other vectors go without."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]


def run_key(model: torch.nn.Module, config: PretrainConfig, data_key: str) -> str:
    """What a checkpoint must share with the run that continues it."""
    shapes = [(name, tuple(tensor.shape)) for name, tensor in model.state_dict().items()]
    return f"{config.model_dump_json(exclude={'checkpoint_every'})} {derive_seed(repr(shapes), data_key)}"


def save_checkpoint(
    path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, key: str, losses: list[float]
) -> None:
    """Write everything that `fit` needs to go on, whole or not at all."""
    state = {
        "key": key,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "losses": losses,
    }
    with write_atomically(path) as temporary:
        torch.save(state, temporary)


def load_checkpoint(path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, key: str) -> list[float]:
    """Bring model and optimizer to the state of `path` and return its losses; none when there is no such file."""
    if not path.exists():
        return []
    state = torch.load(path, map_location="cpu", weights_only=True)
    if state["key"] != key:
        raise CheckpointError(
            describe(
                str(path),
                "the checkpoint belongs to a run of another model, configuration or data",
                "an unfinished run goes on only with the same ones",
                "Delete the file to start anew, or take back the change",
            )
        )
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    losses: list[float] = state["losses"]
    return losses


class StepLog:
    """A progress bar for people; a plain line every `LOG_EVERY` steps where there is no terminal."""

    def __init__(self, label: str, steps: int, first_step: int, console: Console) -> None:
        self.label, self.steps, self.console = label, steps, console
        self.first_step, self.started_at = first_step, time.monotonic()
        self.bar: Progress | None = None
        if console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self.bar = Progress(*columns, console=console)
            self.task = self.bar.add_task(label, total=steps, completed=first_step)

    def __enter__(self) -> Self:
        if self.bar is not None:
            self.bar.start()
        elif self.first_step:
            self.console.print(f"{self.label}: goes on at step {self.first_step} of {self.steps}", highlight=False)
        return self

    def __exit__(self, *exception: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def advance(self, losses: list[float]) -> None:
        """Show that one more step is done."""
        done = len(losses)
        if self.bar is not None:
            self.bar.update(self.task, completed=done, description=f"{self.label}  loss {losses[-1]:.3f}")
        elif done % LOG_EVERY == 0 or done == self.steps:
            elapsed_s = time.monotonic() - self.started_at
            left_s = elapsed_s / (done - self.first_step) * (self.steps - done)
            mean = sum(losses[-LOG_EVERY:]) / len(losses[-LOG_EVERY:])
            line = f"{self.label}: step {done}/{self.steps}  loss {mean:.4f}  {elapsed_s:.0f} s, {left_s:.0f} s left"
            self.console.print(line, highlight=False)
