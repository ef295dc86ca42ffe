"""The loop of the base models: exact resume, schedule, refusal of a foreign checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rich.console import Console

from voicetextblender.errors import CheckpointError
from voicetextblender.mini.pretrain import PretrainConfig, fit, learning_rate_at

CONFIG = PretrainConfig(steps=9, learning_rate=0.1, final_learning_rate=0.01, warmup_steps=3, checkpoint_every=2)


class Kill(BaseException):
    """Stands for the end of the process."""


def train(
    path: Path, kill_at: int | None = None, config: PretrainConfig = CONFIG, width: int = 4, data_key: str = ""
) -> torch.nn.Module:
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(3, width), torch.nn.Dropout(0.5), torch.nn.Linear(width, 1))

    def step_loss(step: int) -> torch.Tensor:
        if step == kill_at:
            raise Kill
        loss: torch.Tensor = model(torch.randn(8, 3)).square().mean()
        return loss

    fit(model, step_loss, config, checkpoint=path, label="test", data_key=data_key, console=Console(quiet=True))
    return model


@pytest.mark.parametrize("kill_at", [0, 3, 4, 8])
def test_a_killed_run_ends_with_the_same_weights(tmp_path: Path, kill_at: int) -> None:
    whole = train(tmp_path / "whole.pt")
    with pytest.raises(Kill):
        train(tmp_path / "killed.pt", kill_at)
    resumed = train(tmp_path / "killed.pt")
    for left, right in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(left, right)


def test_a_finished_checkpoint_is_not_trained_again(tmp_path: Path) -> None:
    first = train(tmp_path / "run.pt")
    again = train(tmp_path / "run.pt", kill_at=0)
    assert torch.equal(first[0].weight, again[0].weight)  # type: ignore[index]


def test_learning_rate_warms_up_and_falls_to_its_end() -> None:
    rates = [learning_rate_at(step, CONFIG) for step in range(10)]
    assert rates[:3] == pytest.approx([0.1 / 3, 0.2 / 3, 0.1])
    assert rates[3] == pytest.approx(0.1) and rates[6] == pytest.approx(0.055) and rates[9] == pytest.approx(0.01)


def test_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    train(tmp_path / "run.pt")
    with pytest.raises(
        CheckpointError, match=r"run\.pt: the checkpoint belongs to a run of another model, configuration or data"
    ):
        train(tmp_path / "run.pt", width=5)
    with pytest.raises(CheckpointError, match="Delete the file to start anew"):
        train(tmp_path / "run.pt", config=CONFIG.model_copy(update={"steps": 10}))
    with pytest.raises(CheckpointError, match="another model, configuration or data"):
        train(tmp_path / "run.pt", data_key="other clips")
