"""What a run says: a line of JSON per step, TensorBoard, and a progress bar or plain lines."""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path
from typing import Any, Self, TextIO

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from voicetextblender.files import write_atomically
from voicetextblender.train.flops import peak_flops
from voicetextblender.train.step import StepResult
from voicetextblender.train.unreadable import StepRows
from voicetextblender.units import samples_to_seconds

PLAIN_LINE_EVERY_S = 10.0
"""Seconds between two lines where there is no terminal."""


def memory_gb(device: torch.device) -> float:
    """Most memory used so far, in GB: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


class RunLog:
    """Writes the log of a run; after a resume, lines of steps that were not kept are gone first.

    Args:
        console: Where people look; None on every rank but the first, which then writes nothing at all.
        num_ranks: GPUs, or processes, that share the work.
    """

    def __init__(
        self,
        run_dir: Path,
        steps: int,
        first_step: int,
        console: Console | None,
        tensorboard: bool,
        num_ranks: int = 1,
    ) -> None:
        self.steps, self.first_step, self.console, self.num_ranks = steps, first_step, console, num_ranks
        self.file: TextIO | None = None
        self.writer: Any = None
        self.bar: Progress | None = None
        self.started_at = self.step_at = time.monotonic()
        self.line_at = 0.0
        if console is not None:
            self._open_files(run_dir, tensorboard)

    def _open_files(self, run_dir: Path, tensorboard: bool) -> None:
        path = run_dir / "log.jsonl"
        if path.exists():
            lines = [line for line in path.read_text().splitlines() if _step_of(line) < self.first_step]
            with write_atomically(path) as temporary:
                temporary.write_text("".join(line + "\n" for line in lines))
        self.file = path.open("a", buffering=1)
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=self.first_step)

    def __enter__(self) -> Self:
        if self.console is None:
            return self
        if self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self.bar = Progress(*columns, console=self.console)
            self.task = self.bar.add_task("training", total=self.steps, completed=self.first_step)
            self.bar.start()
        elif self.first_step:
            self.console.print(f"resumes after step {self.first_step} of {self.steps}", highlight=False)
        return self

    def __exit__(self, *exception: object) -> None:
        if self.bar is not None:
            self.bar.stop()
        if self.file is not None:
            self.file.close()
        if self.writer is not None:
            self.writer.close()

    def write(
        self,
        step: int,
        result: StepResult,
        rows: StepRows,
        learning_rate: float,
        device: torch.device,
        operations: float,
        data_wait_s: float = 0.0,
    ) -> None:
        """Log step `step` (from 0).

        Args:
            operations: of all ranks together (see `flops.py`).
            data_wait_s: of the step's seconds, those in which this rank waited for its data.
        """
        if self.file is None:
            return
        now = time.monotonic()
        step_s, self.step_at = now - self.step_at, now
        audio_s = samples_to_seconds(result.num_samples)
        flops_per_s, peak = operations / step_s / self.num_ranks, peak_flops(device)
        remaining_s = (now - self.started_at) / (step + 1 - self.first_step) * (self.steps - step - 1)
        entry: dict[str, Any] = {
            "step": step,
            "loss": result.loss,
            "loss_by_task": result.loss_by_task,
            "supervised_tokens": result.num_supervised,
            "tokens": result.num_tokens,
            "conversations": rows.conversations,
            "replaced": rows.replaced,
            "rows": rows.hash,
            "audio_s": round(audio_s, 3),
            "grad_norm": result.grad_norm,
            "lr": learning_rate,
            "step_s": round(step_s, 4),
            "data_wait_s": round(data_wait_s, 4),
            "tokens_per_s": round(result.num_tokens / step_s, 1),
            "audio_s_per_s": round(audio_s / step_s, 2),
            "speech_h_per_gpu_h": round(audio_s / step_s / self.num_ranks, 2),
            "tflops_per_s": round(flops_per_s / 1e12, 6),
            "mfu": None if peak is None else round(flops_per_s / peak, 4),
            "memory_gb": round(memory_gb(device), 3),
            "remaining_s": round(remaining_s, 1),
        }
        self.file.write(json.dumps(entry) + "\n")
        self._write_tensorboard(step, entry)
        self._show(step, entry, now)

    def _write_tensorboard(self, step: int, entry: dict[str, Any]) -> None:
        if self.writer is None:
            return
        for name, value in entry.items():
            if isinstance(value, dict):
                for task, loss in value.items():
                    self.writer.add_scalar(f"{name}/{task}", loss, step)
            elif value is not None and name not in ("step", "rows"):
                self.writer.add_scalar(name, value, step)

    def _show(self, step: int, entry: dict[str, Any], now: float) -> None:
        summary = f"loss {entry['loss']:.3f}  grad {entry['grad_norm']:.2f}  {entry['audio_s_per_s']:.0f} audio s/s"
        if entry["mfu"] is not None:
            summary += f"  {entry['mfu']:.0%} MFU"
        if self.bar is not None:
            self.bar.update(self.task, completed=step + 1, description=summary)
            return
        is_due = now - self.line_at >= PLAIN_LINE_EVERY_S or step + 1 == self.steps
        if self.console is not None and is_due:
            self.line_at = now
            left = f"{entry['remaining_s']:.0f} s left, {entry['memory_gb']:.1f} GB"
            self.console.print(f"step {step + 1}/{self.steps}  {summary}  {left}", highlight=False)


def _step_of(line: str) -> float:
    """Step of a log line; a line that a crash cut short counts as later than all."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return float("inf")
