"""A `.nemo` archive read with suspicion: its configuration and its tensors, nothing extracted, nothing executed."""

from __future__ import annotations

import pickle
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import torch
import yaml
from torch import Tensor

from voicetextblender.errors import ModelError, describe

SUFFIX = ".nemo"
CONFIG_MEMBER = "model_config.yaml"
WEIGHTS_MEMBER = "model_weights.ckpt"
MAX_CONFIG_BYTES = 16 * 2**20
MAX_WEIGHTS_BYTES = 64 * 2**30
MAX_MEMBERS = 10_000
DOWNLOAD_FIX = "Get the archive again from where it was published"


def read_nemo_config(path: str) -> dict[str, Any]:
    """The model configuration of an archive.

    Raises:
        ModelError: Not such an archive, or not a safe one.
    """
    with _open_member(path, CONFIG_MEMBER, MAX_CONFIG_BYTES) as file:
        try:
            config = yaml.safe_load(file.read())
        except yaml.YAMLError as error:
            found = f"{CONFIG_MEMBER} is no plain YAML ({str(error).splitlines()[0]})"
            raise ModelError(describe(path, found, "values alone, no objects", DOWNLOAD_FIX)) from error
    if not isinstance(config, dict):
        found = f"{CONFIG_MEMBER} holds a {type(config).__name__}"
        raise ModelError(describe(path, found, "a mapping with 'encoder' and 'preprocessor'", DOWNLOAD_FIX))
    return config


def read_nemo_state(path: str) -> dict[str, Tensor]:
    """All tensors of an archive by name; a pickle that asks for more than tensors is refused unread.

    Raises:
        ModelError: Not such an archive, or not a safe one.
    """
    with _open_member(path, WEIGHTS_MEMBER, MAX_WEIGHTS_BYTES) as file:
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            reason = next((line for line in str(error).splitlines() if "GLOBAL" in line), str(error).splitlines()[0])
            found = f"{WEIGHTS_MEMBER} would run code or is no checkpoint ({reason.strip()})"
            fix = "Do not load it elsewhere either; get the archive from its publisher"
            raise ModelError(describe(path, found, "tensors alone", fix)) from error
        except (RuntimeError, EOFError, zipfile.BadZipFile) as error:
            found = f"{WEIGHTS_MEMBER} cannot be read ({str(error).splitlines()[0]})"
            raise ModelError(describe(path, found, "a whole checkpoint", DOWNLOAD_FIX)) from error
    strange = [key for key, value in state.items() if not isinstance(value, Tensor)] if isinstance(state, dict) else []
    if strange or not isinstance(state, dict):
        found = f"{WEIGHTS_MEMBER} holds other things than tensors ({strange[:3] or type(state).__name__})"
        raise ModelError(describe(path, found, "tensors by name", DOWNLOAD_FIX))
    return state


@contextmanager
def _open_member(path: str, name: str, max_bytes: int) -> Iterator[Any]:
    """A file inside the archive, read in place."""
    if not Path(path).is_file():
        raise ModelError(describe(path, "there is no such file", "a .nemo archive", "Check the path"))
    try:
        with tarfile.open(path, "r:*") as archive:
            member = _find(path, archive, name)
            if member.size > max_bytes:
                found = f"{name} has {member.size:,} bytes"
                raise ModelError(describe(path, found, f"at most {max_bytes:,}", DOWNLOAD_FIX))
            file = archive.extractfile(member)
            assert file is not None, "it is a regular file"
            yield file
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        found = (
            f"the archive is broken or cut off ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        )
        raise ModelError(describe(path, found, "a whole tar", DOWNLOAD_FIX)) from error


def _find(path: str, archive: tarfile.TarFile, name: str) -> tarfile.TarInfo:
    """The one regular member of that name, after a look at all of them."""
    found = []
    for count, member in enumerate(archive, start=1):
        place = PurePosixPath(member.name)
        if place.is_absolute() or ".." in place.parts or not (member.isfile() or member.isdir()):
            kind = "points outside the archive" if member.isfile() else "is a link or a device"
            raise ModelError(
                describe(path, f"member '{member.name}' {kind}", "plain files inside it", "Do not trust this archive")
            )
        if count > MAX_MEMBERS:
            raise ModelError(describe(path, "too many members", f"at most {MAX_MEMBERS:,}", DOWNLOAD_FIX))
        if place == PurePosixPath(name):
            found.append(member)
    if len(found) != 1:
        raise ModelError(describe(path, f"{len(found)} members '{name}'", "one, at the top", DOWNLOAD_FIX))
    return found[0]
