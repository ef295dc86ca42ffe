"""The sources that docs/data.md shows are sources, and every kind is shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
import yaml

from voicetextblender.data.loader import DataConfig
from voicetextblender.data.readers.config import Kind, SourceConfig
from voicetextblender.data.readers.values import USUAL_NAMES
from voicetextblender.data.sources import _OPEN
from voicetextblender.evaluate.config import EvaluateConfig

PAGE = (Path(__file__).parents[3] / "docs" / "data.md").read_text("utf-8")


def test_every_kind_is_shown_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("blend.yaml").write_text("- {type: nemo, manifest_filepath: a.json}\n")
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    loaded = [yaml.safe_load(block) for block in blocks]
    shown = [SourceConfig.model_validate(source) for block in loaded if isinstance(block, list) for source in block]
    sections = [block for block in loaded if isinstance(block, dict)]
    assert [len(section) for section in sections] == [1] * len(sections)
    for section in sections:
        for name, values in section.items():
            {"data": DataConfig, "evaluate": EvaluateConfig}[name].model_validate(values)
    assert {source.kind for source in shown} | {"jsonl"} == set(get_args(Kind)) == set(_OPEN)
    assert all(f"`{kind}`" in PAGE for kind in get_args(Kind))


def test_the_usual_names_are_those_of_the_code() -> None:
    for names in USUAL_NAMES.values():
        assert ", ".join(names) in PAGE
