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
    if not run.is_dir():
        raise RunError(describe(str(run), "no such folder", "a finished run is needed", "Train one: vtb demo, or vtb train mini"))
    if (run / "recipe.yaml").is_file():
        raise RunError(
            describe(
                str(run),
                "the run is not finished",
                "its folder 'model' is written at the end of training",
                f"Continue it: vtb train {run / 'recipe.yaml'} --out {run}",
            )
        )
    raise RunError(describe(str(run), "not a run", "`vtb train` writes one with recipe.yaml and model", "Check the path"))
