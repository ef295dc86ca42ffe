"""That the shapes in annotations are checked while tests run, and that a wrong one is found."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError

from voicetextblender.audio.features import LogMel
from voicetextblender.audio.front_end import pad_waveforms


def test_a_wrong_axis_is_found() -> None:
    with pytest.raises(TypeCheckError, match=r"waveforms"):
        LogMel()(torch.zeros(1600), torch.tensor([1600]))
    with pytest.raises(TypeCheckError, match=r"num_samples"):
        LogMel()(torch.zeros(2, 1600), torch.tensor([1600]))
    with pytest.raises(TypeCheckError, match=r"waveforms"):
        pad_waveforms([torch.zeros(2, 1600)])


def test_clips_may_differ_in_length() -> None:
    padded, lengths = pad_waveforms([torch.zeros(1600), torch.zeros(2400)])
    assert padded.shape == (2, 2400) and lengths.tolist() == [1600, 2400]


def test_every_module_that_names_axes_is_checked(pytestconfig: pytest.Config) -> None:
    checked = str(pytestconfig.getoption("--jaxtyping-packages")).split(",")
    root = Path(__file__).parents[1] / "src"
    names_axes = [path for path in root.rglob("*.py") if re.search(r"^from jaxtyping import", path.read_text(), re.M)]
    modules = [".".join(path.relative_to(root).with_suffix("").parts) for path in names_axes]
    assert len(modules) > 10
    assert [one for one in modules if not any(one == name or one.startswith(f"{name}.") for name in checked)] == []
