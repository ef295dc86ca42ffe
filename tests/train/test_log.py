"""What a run writes where there is no terminal, and what a resume takes back."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from voicetextblender.train import log
from voicetextblender.train.log import RunLog
from voicetextblender.train.step import StepResult
from voicetextblender.train.unreadable import StepRows

RESULT = StepResult(1.5, {"mixed": 2.0, "text": 1.0}, num_supervised=8, num_tokens=40, num_samples=8000, grad_norm=0.25)
ROWS = StepRows(conversations=6, replaced=1, hash="00ab")


def write_steps(run_dir: Path, first: int, stop: int, has_console: bool = True) -> list[str]:
    run_dir.mkdir(exist_ok=True)
    shown = io.StringIO()
    console = Console(file=shown, width=200) if has_console else None
    with RunLog(run_dir, 4, first, console, tensorboard=False) as run_log:
        for step in range(first, stop):
            run_log.write(step, RESULT, ROWS, 1e-3, torch.device("cpu"), 2e12)
    return shown.getvalue().splitlines()


def test_the_log_holds_each_step_once_also_after_a_resume(tmp_path: Path) -> None:
    write_steps(tmp_path, 0, 3)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    assert write_steps(tmp_path, 2, 4)[0] == "resumes after step 2 of 4"
    entries = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries] == [0, 1, 2, 3]
    assert entries[0]["loss"] == 1.5 and entries[0]["loss_by_task"] == {"mixed": 2.0, "text": 1.0}
    assert entries[0]["audio_s"] == 0.5 and entries[0]["supervised_tokens"] == 8 and entries[0]["lr"] == 1e-3
    assert (entries[0]["conversations"], entries[0]["replaced"], entries[0]["rows"]) == (6, 1, "00ab")


def test_speed_is_told_for_all_and_for_each_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((10.0, 10.25))
    monkeypatch.setattr(log.time, "monotonic", lambda: next(clock))
    with RunLog(tmp_path, 4, 0, Console(file=io.StringIO()), tensorboard=False, num_ranks=4) as run_log:
        run_log.write(0, RESULT, ROWS, 1e-3, torch.device("cpu"), 2e12, 0.125)
    entry = json.loads((tmp_path / "log.jsonl").read_text())
    assert (entry["step_s"], entry["tokens_per_s"], entry["audio_s_per_s"]) == (0.25, 160.0, 2.0)
    assert (entry["speech_h_per_gpu_h"], entry["tflops_per_s"], entry["mfu"]) == (0.5, 2.0, None)
    assert entry["data_wait_s"] == 0.125


def test_a_gpu_whose_peak_is_known_has_a_share_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "peak_flops", lambda device: 16e12)
    clock = iter((10.0, 10.25))
    monkeypatch.setattr(log.time, "monotonic", lambda: next(clock))
    shown = io.StringIO()
    with RunLog(tmp_path, 1, 0, Console(file=shown, width=200), tensorboard=True, num_ranks=2) as run_log:
        run_log.write(0, RESULT, ROWS, 1e-3, torch.device("cpu"), 2e12)
    entry = json.loads((tmp_path / "log.jsonl").read_text())
    assert (entry["tflops_per_s"], entry["mfu"]) == (4.0, 0.25)
    assert "2 audio s/s  25% MFU  0 s left" in shown.getvalue()


def test_plain_lines_come_every_few_seconds_and_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "PLAIN_LINE_EVERY_S", 1e9)
    lines = write_steps(tmp_path / "one", 0, 4)
    assert len(lines) == 1 and lines[0].startswith("step 4/4  loss 1.500  grad 0.25  ") and "0 s left" in lines[0]
    monkeypatch.setattr(log, "PLAIN_LINE_EVERY_S", 0.0)
    assert [line.split("  ")[0] for line in write_steps(tmp_path / "two", 0, 4)] == [
        f"step {n}/4" for n in (1, 2, 3, 4)
    ]


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    assert write_steps(tmp_path, 0, 4, has_console=False) == []
    assert not list(tmp_path.iterdir())
