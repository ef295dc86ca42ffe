"""A run folder, as the verbs that use a finished run see it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from voicetextblender.cli.console import error_console
from voicetextblender.errors import RunError, describe

if TYPE_CHECKING:
    from voicetextblender.model.build import Composite
    from voicetextblender.model.reply import SpeechReplier


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


def load_replier(folder: Path) -> SpeechReplier:
    """The trained model of `folder`, ready to answer."""
    model = load_model(folder)
    from voicetextblender.model.reply import SpeechReplier

    return SpeechReplier(model)


def load_model(folder: Path) -> Composite:
    """The trained model of `folder`; a spinner stands in for the libraries' own progress bars."""
    with error_console.status("loading the model"):
        from transformers.utils import logging

        from voicetextblender.model.weights import load_composite

        logging.disable_progress_bar()
        return load_composite(folder)
