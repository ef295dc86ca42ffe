"""Clips inside tar files, found by name and read in place."""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voicetextblender.audio.storage import is_remote, open_binary
from voicetextblender.chat.conversation import AudioPart
from voicetextblender.chat.fields import refusal
from voicetextblender.data.readers.files import expand_paths
from voicetextblender.errors import DataError, describe
from voicetextblender.files import write_atomically

_VERSION = 1
_IN_MEMORY_BYTES = 1 << 20


class Tars:
    """The tar files of a source. A table of members is made once for each and kept in the cache.

    Args:
        pattern: the files (`expand_paths`); those behind URLs are read through fsspec, a member at a time.
        source: its name, for errors.

    Raises:
        DataError: a file does not exist.
    """

    def __init__(self, pattern: str, source: str, cache_dir: Path) -> None:
        self.paths = expand_paths(pattern)
        self.cache_dir = cache_dir
        self._tables: dict[int, NDArray[np.uint64]] = {}
        self._broken: dict[int, DataError] = {}
        missing = [path for path in self.paths if not is_remote(path) and not os.path.isfile(path)]
        if missing or not self.paths:
            found = f"'{missing[0]}' does not exist" if missing else f"no file fits '{pattern}'"
            raise DataError(describe(f"source '{source}'", found, "tars names tar files", "Correct tars"))

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self.paths, "cache_dir": self.cache_dir, "_tables": {}, "_broken": {}}

    @cached_property
    def fingerprint(self) -> str:
        """Of names and sizes: the content is too much to read at every start."""
        sizes = [(path, 0 if is_remote(path) else os.path.getsize(path)) for path in self.paths]
        return hashlib.sha256(repr(sizes).encode()).hexdigest()

    def find(self, tar: int, names: tuple[str, ...], where: str) -> AudioPart:
        """The member of one of the tar files that has one of these names.

        Raises:
            DataError: there is none, or the tar file is compressed or broken.
        """
        if tar in self._broken:  # not listed again for each of its rows
            raise self._broken[tar]
        if tar not in self._tables:
            try:
                self._tables[tar] = self._open_table(tar)
            except DataError as error:
                self._broken[tar] = error
                raise
        hashes, offsets, sizes = self._tables[tar]
        for key in map(_hash, names):
            place = int(np.searchsorted(hashes, key))
            if place < len(hashes) and hashes[place] == key:
                return AudioPart(self.paths[tar], byte_offset=int(offsets[place]), num_bytes=int(sizes[place]))
        found = f"'{names[0]}' is not in '{self.paths[tar]}'"
        raise refusal(where, found, "the clip of a row is a member of its tar", "Make the tar again, or remove the row")

    def _open_table(self, tar: int) -> NDArray[np.uint64]:
        """Hashes of the names, in order; offsets; sizes."""
        path = self.paths[tar]
        size, changed = (0, 0) if is_remote(path) else (os.path.getsize(path), os.stat(path).st_mtime_ns)
        identity = (_VERSION, path if is_remote(path) else os.path.abspath(path), size, changed)
        table = self.cache_dir / f"tar-{hashlib.sha256(repr(identity).encode()).hexdigest()[:32]}.npy"
        if not table.is_file():
            members = np.array(list(_list_members(path)), dtype=np.uint64).reshape(-1, 3)
            with write_atomically(table) as temporary, temporary.open("wb") as file:
                np.save(file, members[np.argsort(members[:, 0], kind="stable")].T.copy())  # names side by side
        loaded: NDArray[np.uint64] = np.load(table, mmap_mode="r" if table.stat().st_size > _IN_MEMORY_BYTES else None)
        return loaded


def _list_members(path: str) -> Iterator[tuple[np.uint64, int, int]]:
    try:
        with open_binary(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.isfile():
                    yield _hash(member.name), member.offset_data, member.size
                tar.members = []  # type: ignore[attr-defined]  # otherwise they pile up
    except (tarfile.TarError, OSError) as error:
        expected = "an uncompressed tar is needed, so that its members can be read in place"
        raise DataError(describe(path, f"cannot be listed ({error})", expected, "Unzip or make it again")) from None


def _hash(name: str) -> np.uint64:
    # A Python integer would be compared as a float, and near ones would be the same.
    return np.uint64(int.from_bytes(hashlib.blake2b(name.removeprefix("./").encode(), digest_size=8).digest(), "big"))
