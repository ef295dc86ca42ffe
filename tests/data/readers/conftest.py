"""Sources of any kind in a test's own folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.data.readers.reading import OpenKind, Upload
from voicetextblender.audio.storage import join_path
from voicetextblender.data.readers.config import SourceConfig
from voicetextblender.data.readers.source import Source
from voicetextblender.data.sources import open_source


@pytest.fixture
def open_kind(tmp_path: Path) -> OpenKind:
    """Opens a source of a kind; `path` is seen from the test's folder."""

    def open_it(kind: str, path: str, **options: Any) -> Source:
        config = SourceConfig.model_validate(
            {"name": "train", "kind": kind, "path": join_path(tmp_path, path), **options}
        )
        return open_source(config, tmp_path / "cache")

    return open_it


@pytest.fixture
def upload() -> Upload:
    """Puts the files of a folder behind a URL of its own, and gives that."""
    fsspec = pytest.importorskip("fsspec")

    def upload_it(folder: Path) -> str:
        root = f"memory://{folder.name}"
        for path in folder.rglob("*"):
            if path.is_file():
                fsspec.filesystem("memory").pipe(f"{root}/{path.relative_to(folder)}", path.read_bytes())
        return root

    return upload_it
