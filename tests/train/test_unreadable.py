"""What a run could not read: counted over kills and resumes, told at its end, and never too much."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.tiny import make_recipe
from voicetextblender.data.measure import NO_AUDIO
from voicetextblender.errors import RunError
from voicetextblender.train import loop, unreadable
from voicetextblender.train.recipe import Recipe


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """12 rows, 8 a step, 6 steps; the clip of one row is gone."""
    recipe = make_recipe(tmp_path)
    (tmp_path / "clips/5_0.flac").rename(tmp_path / "whole.flac")
    (tmp_path / "clips/5_0.flac").write_bytes(b"no audio")
    return recipe


def test_a_run_tells_what_it_could_not_read(recipe: Recipe, tmp_path: Path) -> None:
    shown = io.StringIO()
    loop.train(recipe, tmp_path / "run", Console(file=shown, width=300))
    log, told = read_lines(tmp_path / "run/log.jsonl"), read_lines(tmp_path / "run/unreadable.jsonl")
    planned = [line for line in told if line["is_planned"]]
    assert len(planned) == sum(entry["replaced"] for entry in log) == 4  # epochs of 12 rows in 48 draws
    assert {entry["conversations"] for entry in log} == {8}
    assert len({entry["rows"] for entry in log}) == 6 and all(len(entry["rows"]) == 16 for entry in log)
    for line in planned:
        assert line["reason"] == NO_AUDIO and line["source"] == "all" and line["where"].endswith("train.jsonl:6")
        assert "clips/5_0.flac" in line["text"] and "train.jsonl:" in line["replaced_by"]
    assert "no usable audio" in shown.getvalue()
    assert "4 of 48 conversations (8.33%) could not be read; others took their places. All of" in shown.getvalue()


def test_a_run_that_reads_everything_tells_nothing(tmp_path: Path) -> None:
    shown = io.StringIO()
    loop.train(make_recipe(tmp_path, steps=1), tmp_path / "run", Console(file=shown, width=300))
    assert not (tmp_path / "run/unreadable.jsonl").exists() and "could not be read" not in shown.getvalue()


def test_counts_survive_a_crash(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop.train(recipe, tmp_path / "undisturbed", Console(file=io.StringIO()))
    real_step = loop.run_step
    for stop_at in (3, 5):

        def stopping_step(*arguments: Any, stop_at: int = stop_at) -> Any:
            if arguments[-1] == stop_at:
                raise KeyboardInterrupt
            return real_step(*arguments)

        monkeypatch.setattr(loop, "run_step", stopping_step)
        with pytest.raises(KeyboardInterrupt):
            loop.train(recipe, tmp_path / "run", Console(file=io.StringIO()))
    with (tmp_path / "run/unreadable.jsonl").open("a") as file:
        file.write('{"step": 5, "sou')
    monkeypatch.setattr(loop, "run_step", real_step)
    shown = io.StringIO()
    loop.train(recipe, tmp_path / "run", Console(file=shown, width=300))
    assert read_lines(tmp_path / "run/unreadable.jsonl") == read_lines(tmp_path / "undisturbed/unreadable.jsonl")
    assert "4 of 48 conversations (8.33%) could not be read" in shown.getvalue()


def test_what_was_mended_meanwhile_changes_no_step_that_was_made(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps after the last checkpoint are made again as they were; later ones read the mended clip."""
    loop.train(recipe, tmp_path / "undisturbed", Console(file=io.StringIO()))
    expected = [entry["rows"] for entry in read_lines(tmp_path / "undisturbed/log.jsonl")]
    (failed_at,) = {line["step"] for line in read_lines(tmp_path / "undisturbed/unreadable.jsonl")[:1]}
    monkeypatch.setattr(loop.CheckpointStore, "save", lambda *arguments: None)
    real_step = loop.run_step

    def stopping_step(*arguments: Any) -> Any:
        if arguments[-1] == failed_at + 1:
            raise KeyboardInterrupt
        return real_step(*arguments)

    monkeypatch.setattr(loop, "run_step", stopping_step)
    with pytest.raises(KeyboardInterrupt):
        loop.train(recipe, tmp_path / "run", Console(file=io.StringIO()))
    (tmp_path / "whole.flac").rename(tmp_path / "clips/5_0.flac")
    monkeypatch.setattr(loop, "run_step", real_step)
    loop.train(recipe, tmp_path / "run", Console(file=io.StringIO()))
    ours = [entry["rows"] for entry in read_lines(tmp_path / "run/log.jsonl")]
    assert ours[: failed_at + 1] == expected[: failed_at + 1]
    assert {line["step"] for line in read_lines(tmp_path / "run/unreadable.jsonl")} == {failed_at}


@pytest.mark.parametrize(("share", "stops"), [(0.0, True), (0.003, True), (0.0041, False)])
def test_too_large_a_share_stops_the_run(recipe: Recipe, tmp_path: Path, share: float, stops: bool) -> None:
    assert unreadable.LEAST_DRAWS == 1000
    data = recipe.data.model_copy(update={"max_failed_share": share})
    strict = recipe.model_copy(update={"data": data})
    if not stops:
        loop.train(strict, tmp_path / "run", Console(file=io.StringIO()))
        return
    with pytest.raises(
        RunError,
        match=rf"(?s)^step \d: \d of \d+ conversations \([\d.]+%\) could not be read; at most data.max_failed_share, "
        rf"{share:.2%}. Look at '.*unreadable.jsonl'. Mend the files, .*\.\n  \d x no usable audio, first .*jsonl:6$",
    ):
        loop.train(strict, tmp_path / "run", Console(file=io.StringIO()))
    assert (tmp_path / "run/unreadable.jsonl").exists()
