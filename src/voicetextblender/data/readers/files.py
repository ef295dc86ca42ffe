"""The files that a source's path stands for, and copies of those that cannot be read by offset."""

from __future__ import annotations

import gzip
import hashlib
import re
import shutil
from collections.abc import Iterator
from glob import glob, has_magic
from pathlib import Path
from typing import NoReturn

from voicetextblender.audio.storage import find_remote, is_remote, open_binary
from voicetextblender.data.readers.fingerprints import remember_fingerprint
from voicetextblender.errors import DataError, describe
from voicetextblender.files import write_atomically

AUDIO_SUFFIXES = (".flac", ".wav", ".opus", ".ogg", ".mp3", ".m4a", ".webm")
"""How files are called that hold recordings."""
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")


def expand_paths(pattern: str) -> tuple[str, ...]:
    """The files a pattern names: `{0..7}`, `{a,b}`, NeMo's `_OP_0..7_CL_`, and `*`; sorted where a `*` is.

    Numbers keep their width: `{00..07}` is 00, 01, ... 07.
    """
    pattern = pattern.replace("_OP_", "{").replace("_CL_", "}")
    return tuple(path for one in _expand_braces(pattern) for path in _expand_stars(one))


def find_files(pattern: str, source: str) -> tuple[str, ...]:
    """The files a pattern names, each of which exists (those behind URLs are not looked for).

    Raises:
        DataError: one does not, or none fits.
    """
    paths = expand_paths(pattern)
    where = f"source '{source}'"
    if not paths:
        _refuse(where, f"no file fits '{pattern}'", "at least one is needed", "Correct the path")
    for path in paths:
        if not is_remote(path) and not Path(path).is_file():
            found = "is a folder" if Path(path).is_dir() else "does not exist"
            _refuse(where, f"'{path}' {found}", "a manifest is a file", "Correct the path")
    return paths


def local_copy(path: str, cache_dir: Path) -> Path:
    """The file itself if it is local and plain; else a copy of it in the cache, unpacked if it was gzipped.

    A remote file is fetched once: to have a changed one noticed, give it another name or empty the cache.

    Raises:
        DataError: it cannot be fetched or unpacked.
    """
    if not is_remote(path) and not path.endswith(".gz"):
        return Path(path)
    identity = path if is_remote(path) else f"{Path(path).resolve()} {remember_fingerprint(Path(path), cache_dir)}"
    name = hashlib.sha256(identity.encode()).hexdigest()[:16]
    copy = cache_dir / f"copy-{name}-{path.rpartition('/')[2].removesuffix('.gz')}"
    if not copy.is_file():
        try:
            with open_binary(path) as packed, write_atomically(copy) as temporary, temporary.open("wb") as file:
                content = gzip.GzipFile(fileobj=packed) if path.endswith(".gz") else packed
                shutil.copyfileobj(content, file)
        except (OSError, EOFError) as error:
            _refuse(path, f"cannot be read ({error})", "a file, plain or gzipped", "Check it, or make it again")
    return copy


def row_id(path: str, line: int, num_files: int) -> str:
    """A name for a row that has none."""
    return f"{path if num_files > 1 else path.rpartition('/')[2]}:{line}"


def _expand_braces(pattern: str) -> Iterator[str]:
    before, brace, rest = pattern.partition("{")
    inside, closed, after = rest.partition("}")
    if not brace or not closed:
        yield pattern
        return
    if numbers := _RANGE.fullmatch(inside):
        low, high = int(numbers[1]), int(numbers[2])
        width = max(map(len, numbers.groups())) if any(len(n) > 1 and n[0] == "0" for n in numbers.groups()) else 0
        step = 1 if low <= high else -1
        choices = [f"{number:0{width}d}" for number in range(low, high + step, step)]
    elif "," in inside:
        choices = inside.split(",")
    else:
        choices = [f"{{{inside}}}"]  # braces around one word are letters, as in a shell
    for choice in choices:
        yield from (f"{before}{choice}{rest}" for rest in _expand_braces(after))


def _expand_stars(path: str) -> list[str]:
    if not has_magic(path) or (not is_remote(path) and Path(path).exists()):
        return [path]
    return find_remote(path) if is_remote(path) else sorted(glob(path, recursive=True))


def _refuse(where: str, found: str, expected: str, fix: str) -> NoReturn:
    raise DataError(describe(where, found, expected, fix))
