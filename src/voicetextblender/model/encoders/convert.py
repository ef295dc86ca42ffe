"""The speech encoder of a `.nemo` archive as a folder that any tool of the library reads."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from voicetextblender.errors import ModelError, describe
from voicetextblender.model.encoders.nemo import load_nemo_encoder
from voicetextblender.model.encoders.nemo_settings import nemo_encoder_config


def convert_nemo(path: str, folder: Path) -> dict[str, int]:
    """Write the encoder of an archive to `folder`, which appears whole or not at all.

    Returns:
        How many tensors of each other part were left in the archive.

    Raises:
        ModelError: The folder is there already, or the archive cannot be used.
    """
    if folder.exists():
        raise ModelError(describe(str(folder), "it is there already", "a new folder", "Remove it, or name another"))
    tower, left = load_nemo_encoder(path, nemo_encoder_config(path))
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    tower.save_pretrained(partial)
    os.replace(partial, folder)
    return left
