"""Manifests: rows by scan and by seek, and what is said of lines that are none."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from tests.data.rows import WriteManifest, text_row
from voicetextblender.data.readers.config import SourceConfig
from voicetextblender.data.readers.source import Source
from voicetextblender.data.sources import open_source
from voicetextblender.errors import DataError


def open_manifest(path: Path, task: str | None = None) -> Source:
    return open_source(SourceConfig(name="train", path=str(path), task=task))


def test_a_row_read_by_its_offset_is_the_row_of_the_scan(write_manifest: WriteManifest) -> None:
    path = write_manifest(["\ufeff", text_row(0), "\n", "  \r\n", text_row(1, "Straße 🎧"), text_row(2)])
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    source = open_manifest(path)
    rows = list(source.scan())
    assert [row.line for row in rows] == [1, 4, 5]
    for row, number in zip(reversed(rows), (2, 1, 0), strict=True):
        assert source.read(row.line, row.offset, len(row.content)) == source.parse(row)
        assert source.parse(row).id == f"t{number}"


def test_task_of_the_source_replaces_that_of_its_rows(write_manifest: WriteManifest) -> None:
    path = write_manifest([text_row(0) | {"task": "answering"}])
    row = next(iter(open_manifest(path).scan()))
    assert open_manifest(path).parse(row).task == "answering"
    assert open_manifest(path, task="mixed").parse(row).task == "mixed"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b'{"id": "a", ', "no JSON at column 13 (Expecting property name enclosed in double quotes)"),
        (b"hello", "no JSON at column 1 (Expecting value)"),
        (b'{"id": "\xff"}', "no UTF-8 text at byte 9"),
        (b"[" * 100_000, "no usable JSON (maximum recursion depth exceeded"),
    ],
)
def test_lines_that_are_no_json(tmp_path: Path, line: bytes, found: str) -> None:
    (tmp_path / "train.jsonl").write_bytes(b"\n" + line)
    source = open_manifest(tmp_path / "train.jsonl")
    message = f"train.jsonl:2: {found}"
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        source.parse(next(iter(source.scan())))
    assert str(caught.value).endswith("; every line is one JSON object. Mend the line or remove it.")


def test_missing_manifest(tmp_path: Path) -> None:
    expected = r"source 'train': '.*gone.jsonl' does not exist; a manifest is a file\. Correct the path\."
    with pytest.raises(DataError, match=expected):
        open_manifest(tmp_path / "gone.jsonl")
    with pytest.raises(DataError, match="is a folder; a manifest is a file"):
        open_manifest(tmp_path)


def test_config_is_strict() -> None:
    for wrong in ({"weight": -1}, {"weight": float("nan")}, {"kind": "csv"}, {"wight": 1}):
        with pytest.raises(ValidationError):
            SourceConfig.model_validate({"name": "train", "path": "x", **wrong})
