"""Fingerprints are remembered for large files, and no edit escapes them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from voicetextblender.data.readers import fingerprints
from voicetextblender.data.readers.fingerprints import fingerprint_files, remember_fingerprint
from voicetextblender.files import fingerprint


class Reads:
    """Counts how often a file is really read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        monkeypatch.setattr(fingerprints, "fingerprint", self)

    def __call__(self, path: Path) -> str:
        self.count += 1
        return fingerprint(path)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    monkeypatch.setattr(fingerprints, "REMEMBERED_BYTES", 10)
    monkeypatch.setattr(fingerprints, "SETTLED_NS", 20_000_000)
    return Reads(monkeypatch)


def settle() -> None:
    time.sleep(0.05)


def test_an_unchanged_file_is_read_once(tmp_path: Path, reads: Reads) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"0123456789")
    settle()
    digests = {remember_fingerprint(path, tmp_path / "cache") for _ in range(3)}
    assert digests == {fingerprint(path)} and reads.count == 1
    assert fingerprint_files((path,), tmp_path / "cache") == fingerprint(path)
    assert fingerprint_files((path, path), tmp_path / "cache") != fingerprint(path)
    assert reads.count == 1


def test_an_edit_of_the_same_size_and_time_is_noticed(tmp_path: Path, reads: Reads) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"0123456789")
    os.utime(path, ns=(10**18, 10**18))
    settle()
    first = remember_fingerprint(path, tmp_path / "cache")
    path.write_bytes(b"9876543210")
    os.utime(path, ns=(10**18, 10**18))
    assert remember_fingerprint(path, tmp_path / "cache") == fingerprint(path) != first


def test_a_file_that_was_changed_just_now_is_not_relied_upon(tmp_path: Path, reads: Reads) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"0123456789")
    for _ in range(2):
        remember_fingerprint(path, tmp_path / "cache")
    assert reads.count == 2


def test_a_small_file_is_read_each_time(tmp_path: Path, reads: Reads) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"012345678")
    settle()
    for _ in range(2):
        remember_fingerprint(path, tmp_path / "cache")
    assert reads.count == 2 and not (tmp_path / "cache").exists()
