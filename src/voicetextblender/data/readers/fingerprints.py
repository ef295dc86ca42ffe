"""Fingerprints of files that are too large to be read at every start."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

from voicetextblender.files import fingerprint, write_atomically

REMEMBERED_BYTES = 1 << 24
"""Smaller files are read each time: it takes milliseconds."""
SETTLED_NS = 2_000_000_000
"""A file changed so shortly before it was read may change again with the same time of change: not relied upon."""


def fingerprint_files(paths: tuple[Path, ...], cache_dir: Path) -> str:
    """SHA-256 of the content: of one file its own, of several that of their list."""
    digests = [remember_fingerprint(path, cache_dir) for path in paths]
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def remember_fingerprint(path: Path, cache_dir: Path) -> str:
    """SHA-256 of the content of one file; of a large one from the cache while size, inode and times are the same.

    The time of change is among them, which no program can set: an edit that keeps size and time of modification is
    noticed.
    """
    if path.stat().st_size < REMEMBERED_BYTES:
        return fingerprint(path)
    name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
    memory = cache_dir / f"sha256-{name}.json"
    state = _state(path)
    if memory.is_file():
        remembered = json.loads(memory.read_bytes())
        if remembered["state"] == state:
            return str(remembered["sha256"])
    begun_ns = time.time_ns()
    digest = fingerprint(path)
    if _state(path) == state and max(state[2:]) < begun_ns - SETTLED_NS:
        with write_atomically(memory) as temporary:
            temporary.write_text(json.dumps({"path": str(path), "state": state, "sha256": digest}))
    return digest


def _state(path: Path) -> list[int]:
    """Size, inode, times of modification and of change."""
    stat = path.stat()
    return [stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns]
