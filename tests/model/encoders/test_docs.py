"""The family that docs/models.md adds does what a family must."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Qwen2AudioEncoder, Qwen2AudioEncoderConfig

from voicetextblender.audio.front_end import extract_features, open_front_end
from voicetextblender.model.encoders import families, plan
from voicetextblender.model.encoders.encode import encode
from voicetextblender.model.encoders.load import load_encoder
from voicetextblender.model.encoders.settings import EncoderSettings

DOCS = Path(__file__).parents[3] / "docs" / "models.md"


def test_the_family_of_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for lines in (families.FAMILIES, plan.FRONT_ENDS):  # the docs write over these, and they are gone after the test
        monkeypatch.setitem(lines, "qwen2_audio_encoder", None)
    exec(DOCS.read_text().split("```python\n")[1].split("```")[0], {"__name__": "docs"})
    config = Qwen2AudioEncoderConfig(
        d_model=32,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=48,
        max_source_positions=50,
        init_std=0.2,
    )
    Qwen2AudioEncoder(config).save_pretrained(tmp_path)
    planned = plan.plan_encoder(str(tmp_path), EncoderSettings(overlap_s=0.16))
    tower = load_encoder(planned).eval()
    front_end = open_front_end(planned.front_end)
    random = np.random.default_rng(0)
    lengths = [800, 15_999, 16_000, 16_001, *random.integers(800, 40_000, 6).tolist()]
    clips = [torch.from_numpy(random.normal(0, 0.1, length).astype(np.float32)) for length in lengths]
    with torch.inference_mode():
        together = encode(tower, *extract_features(front_end, clips))
        for clip, hidden, mask in zip(clips, together.last_hidden_state, together.attention_mask, strict=True):
            alone = encode(tower, *extract_features(front_end, [clip]))
            assert int(mask.sum()) == int(alone.attention_mask.sum()) == planned.num_audio_tokens(len(clip))
            torch.testing.assert_close(
                hidden[mask], alone.last_hidden_state[alone.attention_mask], rtol=1e-3, atol=2e-4
            )
