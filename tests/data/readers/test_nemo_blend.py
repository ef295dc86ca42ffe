"""NeMo's input_cfg becomes groups and sources with the same data, weights and languages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from voicetextblender.data.blend import Blend
from voicetextblender.data.blend_config import make_group, walk_sources
from voicetextblender.data.loader import DataConfig

BLEND = """
- type: group
  weight: 0.7
  tags: {lang: en, corpus: read}
  input_cfg:
    - {type: nemo, manifest_filepath: a.json, weight: 0.2, tags: {context: "Write this down:"}}
    - type: nemo_tarred
      manifest_filepath: b/manifest__OP_0..7_CL_.json
      tarred_audio_filepaths: b/audio__OP_0..7_CL_.tar
      weight: 0.8
      tags: {lang: de, target_lang: en}
    - {type: group, input_cfg: more.yaml}
- {type: multimodal_conversation, manifest_filepath: [c.json, d.json], audio_locator_tag: "[audio]", weight: 0.3}
"""


def make_config(path: Path, **changes: Any) -> DataConfig:
    group = {"name": "nemo", "weight": 2.0, "input_cfg": str(path), **changes}
    return DataConfig.model_validate({"sources": [group, {"name": "text", "path": "t.jsonl"}]})


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataConfig:
    monkeypatch.chdir(tmp_path)
    Path("blend.yaml").write_text(BLEND)
    Path("more.yaml").write_text("- {type: lhotse_shar, shar_path: shar}\n")
    return make_config(Path("blend.yaml"))


def test_groups_and_sources(config: DataConfig) -> None:
    found = [(" / ".join(path), one.name, one.kind, one.path) for path, one in walk_sources(config.sources)]
    assert found == [
        ("nemo / nemo-0", "nemo-0-0", "nemo", "a.json"),
        ("nemo / nemo-0", "nemo-0-1", "nemo_tarred", "b/manifest__OP_0..7_CL_.json"),
        ("nemo / nemo-0 / nemo-0-2", "nemo-0-2-0", "lhotse_shar", "shar"),
        ("nemo", "nemo-1", "nemo_conversation", "{c.json,d.json}"),
        ("", "text", "jsonl", "t.jsonl"),
    ]
    asr, ast, shar, talk, _ = config.all_sources.values()
    assert asr.prompts.transcription == ("Write this down: {clip}",) and not asr.prompts.package
    assert [(one.language, one.target_language) for one in (asr, ast, shar)] == [
        ("en", None),
        ("de", "en"),
        ("en", None),
    ]
    assert ast.tars == "b/audio__OP_0..7_CL_.tar" and talk.audio_mark == "[audio]"
    blend = Blend(make_group(config.sources, None), dict.fromkeys(config.all_sources, 10), 0)
    third = 2 / 3
    assert blend.shares == pytest.approx((third * 0.7 * 0.1, third * 0.7 * 0.4, third * 0.7 * 0.5, third * 0.3, 1 / 3))


def test_the_resolved_recipe_needs_the_file_no_more(config: DataConfig) -> None:
    values = yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json")))
    Path("blend.yaml").unlink()
    assert DataConfig.model_validate(values) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", r"b\.yaml: input_cfg is \[\]; a list of data sets is expected"),
        (
            "- {type: txt, paths: a}",
            r"b\.yaml nemo-0: the type is 'txt'; read are nemo, nemo_tarred, lhotse, lhotse_shar",
        ),
        ("- {type: nemo, manifest_filepath: a, speed: 2}", r"nemo-0: 'speed' has no counterpart here; read are type, "),
        ("- {type: nemo}", r"b\.yaml nemo-0: 'manifest_filepath' is None; a path or a list of paths is expected"),
        (
            "- {type: nemo, manifest_filepath: ['a{0..1}', b]}",
            r"'manifest_filepath' is a list of patterns; a list holds",
        ),
        (
            "- {type: group, input_cfg: gone.yaml}",
            r"gone\.yaml: cannot be read \(.*\); a YAML list\. Correct input_cfg",
        ),
        ("- [1", r"b\.yaml: cannot be read \(while parsing a flow sequence"),
    ],
)
def test_what_has_no_counterpart_is_told(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "b.yaml").write_text(text)
    with pytest.raises(ValidationError, match=message):
        make_config(tmp_path / "b.yaml")


def test_either_sources_or_a_file(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="it should have either sources or input_cfg"):
        make_config(tmp_path, sources=[{"name": "a", "path": "a"}])
