"""Traces of steps: whole files with the steps in them, and wishes that cannot be met."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from rich.console import Console

from tests.tiny import make_recipe
from voicetextblender.errors import RunError
from voicetextblender.train.loop import train
from voicetextblender.train.profiling import StepTrace, parse_steps


@pytest.mark.parametrize(("text", "steps"), [("10-12", range(10, 13)), ("0", range(1)), ("3-3", range(3, 4))])
def test_steps_are_read(text: str, steps: range) -> None:
    assert parse_steps(text) == steps


@pytest.mark.parametrize("text", ["12-10", "a", "", "-3", "1-2-3", "1.5"])
def test_what_is_no_range_of_steps_is_refused(text: str) -> None:
    with pytest.raises(RunError, match=f"--profile: '{text}'; steps such as 10-12, the lower first"):
        parse_steps(text)


def test_steps_that_the_run_does_not_take_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="steps 4 to 6; this run takes steps 2 to 5"):
        StepTrace(tmp_path, range(4, 7)).check(2, 6)
    StepTrace(tmp_path, range(4, 6)).check(2, 6)
    StepTrace(tmp_path, range(0)).check(2, 6)


def test_a_training_writes_a_trace_of_the_steps_that_were_named_and_no_others(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, steps=3)
    with pytest.raises(RunError, match="this run takes steps 0 to 2"):
        train(recipe, tmp_path / "run", Console(quiet=True), range(2, 4))
    train(recipe, tmp_path / "run", Console(quiet=True), range(1, 3))
    (path,) = (tmp_path / "run/trace").iterdir()
    assert path.name == "steps-1-2.json.gz"
    names = {event.get("name") for event in json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]}
    assert {"step 1", "step 2", "aten::mm"} <= names
    assert "step 0" not in names
    log = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert len(log) == 3 and all(line["tflops_per_s"] > 0 and line["mfu"] is None for line in log)
