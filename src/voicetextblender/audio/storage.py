"""Bytes of files: on this machine, in an archive on it, behind a URL that fsspec opens, or in memory."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import BinaryIO, cast

from voicetextblender.errors import DataError, describe


@dataclass(frozen=True)
class StoredAudio:
    """An audio file that is no plain local file.

    Args:
        path: the file that holds it, local or a URL; its mere name if `encoded` is given.
        byte_offset: where it begins in that file, as a member of an uncompressed tar does.
        num_bytes: its size; None for all that follows `byte_offset`.
        encoded: the file itself, taken instead of what lies at `path`.
    """

    path: str
    byte_offset: int = 0
    num_bytes: int | None = None
    encoded: bytes | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        if self.num_bytes is None:
            return self.path
        return f"{self.path}, bytes {self.byte_offset} to {self.byte_offset + self.num_bytes}"

    def open(self) -> BytesIO:
        """The encoded file, in memory.

        Raises:
            OSError: it cannot be read, or breaks off.
            DataError: nothing installed opens this kind of URL.
        """
        if self.encoded is not None:
            return BytesIO(self.encoded)
        content = _read_bytes(self.path, self.byte_offset, self.num_bytes)
        if self.num_bytes is not None and len(content) < self.num_bytes:
            raise OSError(f"only {len(content)} of {self.num_bytes} bytes are there")
        return BytesIO(content)


def _read_bytes(path: str, offset: int, num_bytes: int | None) -> bytes:
    if is_remote(path):  # no file object: it would read ahead megabytes for each clip
        with _explain_missing(path):
            fs, inside = importlib.import_module("fsspec.core").url_to_fs(path)
        end = None if num_bytes is None else offset + num_bytes
        try:
            return bytes(fs.cat_file(inside, start=offset, end=end))
        except Exception as error:  # each file system has errors of its own
            raise OSError(str(error) or type(error).__name__) from error
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read() if num_bytes is None else file.read(num_bytes)


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a URL such as s3://bucket/file."""
    return "://" in str(path)


def join_path(folder: str | os.PathLike[str], path: str) -> str:
    """`path` seen from `folder`; absolute paths and URLs stay as they are."""
    if is_remote(path):
        return path
    if is_remote(folder):
        return f"{str(folder).rstrip('/')}/{path}" if not path.startswith("/") else path
    return os.path.join(folder, path)


def parent_folder(path: str) -> str:
    """The folder of a file, local or remote."""
    return path.rpartition("/")[0] if is_remote(path) else os.path.dirname(path) or "."


def open_binary(path: str) -> BinaryIO:
    """The file for reading; remote ones through fsspec.

    Raises:
        OSError: it cannot be opened.
        DataError: nothing installed opens this kind of URL.
    """
    if not is_remote(path):
        return open(path, "rb")
    with _explain_missing(path):
        opened = importlib.import_module("fsspec").open(path, "rb")
    return cast(BinaryIO, opened.open())


def find_remote(pattern: str) -> list[str]:
    """The URLs that a pattern with `*` names, sorted.

    Raises:
        DataError: nothing installed opens this kind of URL.
    """
    with _explain_missing(pattern):
        fs, inside = importlib.import_module("fsspec.core").url_to_fs(pattern)
    return sorted(fs.unstrip_protocol(path) for path in fs.glob(inside))


def list_remote(folder: str) -> list[str]:
    """The URLs of all files below a folder, each beginning as the folder does, sorted; none if there is no such folder.

    Raises:
        OSError: it cannot be listed.
        DataError: nothing installed opens this kind of URL.
    """
    with _explain_missing(folder):
        fs, inside = importlib.import_module("fsspec.core").url_to_fs(folder)
    try:
        return sorted(folder + path.removeprefix(inside) for path in fs.find(inside))
    except FileNotFoundError:
        return []
    except Exception as error:  # each file system has errors of its own
        raise OSError(str(error) or type(error).__name__) from error


@contextmanager
def _explain_missing(url: str) -> Iterator[None]:
    """Turn what fsspec says of an unknown or uninstalled protocol into an error that says what to install."""
    try:
        yield
    except (ImportError, ValueError) as error:
        fix = "Install what reads it, for s3:// `pip install 'voicetextblender[s3]'`, for gs:// `[gs]`"
        raise DataError(describe(url, f"cannot be opened ({error})", "a URL that fsspec opens", fix)) from None
