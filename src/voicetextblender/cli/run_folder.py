"""A run folder, as the verbs that use a finished run see it."""

from __future__ import annotations

from pathlib import Path

from voicetextblender.errors import RunError, describe


def find_model(run: Path) -> Path:
    """The folder of the trained model: `model` inside a run, or the folder itself when it is one.

    Raises:
        RunError: no such folder, or a run that has not been trained to its end.
    """
    for folder in (run / "model", run):
        if (folder / "voicetextblender.json").is_file():
            return folder
    expected, fix = "`vtb train` writes one with recipe.yaml and model", "Check the path"
    found = "not a run"
    if not run.is_dir():
        found, fix = "no such folder", "Check the path, or make one: vtb demo"
    elif (run / "recipe.yaml").is_file():
        found, expected = "a run that is not finished", "its folder 'model' is written at the end of training"
        fix = f"Continue it: vtb train {run / 'recipe.yaml'} --out {run}"
    raise RunError(describe(str(run), found, expected, fix))
