"""`.nemo` archives: what NeMo wrote comes out whole; what is broken, foreign or hostile is refused with a reason."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from transformers import ParakeetEncoder, ParakeetEncoderConfig
from typer.testing import CliRunner

from benchmarks.nemo_parity import CONFIGURATIONS, ENCODER, model_config
from tests.tiny import make_recipe
from voicetextblender.audio.features import mel_filter_bank
from voicetextblender.cli.main import app
from voicetextblender.errors import ModelError
from voicetextblender.model.build import build_composite
from voicetextblender.model.encoders import nemo_archive
from voicetextblender.model.encoders.load import load_encoder
from voicetextblender.model.encoders.nemo import load_nemo_encoder
from voicetextblender.model.encoders.plan import plan_encoder
from voicetextblender.model.encoders.settings import EncoderSettings

NEMO_NAMES = (
    (r"^subsampling\.layers\.", "pre_encode.conv."),
    (r"^subsampling\.linear\.", "pre_encode.out."),
    (r"\.conv\.norm\.", ".conv.batch_norm."),
    (r"\.([qkv])_proj\.", r".linear_\1."),
    (r"\.o_proj\.", ".linear_out."),
    (r"\.bias_([uv])$", r".pos_bias_\1"),
    (r"\.relative_k_proj\.", ".linear_pos."),
)
"""The library's names as NeMo's; the benchmark shows on archives of NeMo's own that these are they."""


def to_nemo(key: str) -> str:
    for pattern, replacement in NEMO_NAMES:
        key = re.sub(pattern, replacement, key)
    return f"encoder.{key}"


def make_encoder(changes: dict[str, Any]) -> ParakeetEncoder:
    values = ENCODER | changes
    has_bias = values.get("use_bias", True)
    torch.manual_seed(0)
    return ParakeetEncoder(
        ParakeetEncoderConfig(
            hidden_size=64,
            num_hidden_layers=values["n_layers"],
            num_attention_heads=4,
            intermediate_size=256,
            num_mel_bins=values["feat_in"],
            subsampling_factor=values["subsampling_factor"],
            subsampling_conv_channels=16,
            conv_kernel_size=values["conv_kernel_size"],
            scale_input=values["xscaling"],
            attention_bias=has_bias,
            convolution_bias=has_bias,
        )
    ).eval()


def make_state(changes: dict[str, Any] | None = None) -> dict[str, Tensor]:
    """Tensors as NeMo names them, a decoder's among them."""
    num_mels = (ENCODER | (changes or {}))["feat_in"]
    state = {to_nemo(key): value for key, value in make_encoder(changes or {}).state_dict().items()}
    state |= {"decoder.embedding.weight": torch.ones(3, 2), "log_softmax.mlp.weight": torch.ones(2)}
    state["preprocessor.featurizer.fb"] = torch.from_numpy(mel_filter_bank(num_mels, 512, 16_000))[None]
    state["preprocessor.featurizer.window"] = torch.hann_window(400, periodic=False)
    return state


def write_archive(path: Path, config: Any = None, state: Any = None, weights: bytes | None = None) -> Path:
    buffer = io.BytesIO()
    torch.save(make_state() if state is None else state, buffer)
    text = config if isinstance(config, str) else yaml.safe_dump(config or model_config(ENCODER))
    members = {
        "model_config.yaml": text.encode(),
        "model_weights.ckpt": weights or buffer.getvalue(),
        "vocab.txt": b"a",
    }
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            add(archive, f"./{name}", content)
    return path


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def load(path: Path, settings: EncoderSettings | None = None) -> ParakeetEncoder:
    return load_encoder(plan_encoder(str(path), settings))


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_published_configuration(name: str, tmp_path: Path) -> None:
    changes = CONFIGURATIONS[name]
    path = write_archive(tmp_path / "model.nemo", model_config(ENCODER | changes), make_state(changes))
    plan = plan_encoder(str(path))
    tower, left = load_nemo_encoder(str(path), plan.config)
    expected = make_encoder(changes).state_dict()
    assert set(tower.state_dict()) == set(expected)
    assert all(torch.equal(value, expected[key]) for key, value in tower.state_dict().items())
    assert left == {"decoder": 1, "log_softmax": 1, "preprocessor": 2}
    assert plan.front_end.num_mels == (ENCODER | changes)["feat_in"]
    assert tower.input_scale == (8.0 if (ENCODER | changes)["xscaling"] else 1.0)


def test_a_compressed_archive_and_one_cut_to_two_layers(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "model.nemo")
    packed = tmp_path / "packed.nemo"
    packed.write_bytes(gzip.compress(path.read_bytes(), 1))
    assert len(load(packed).layers) == 3
    cut = load(packed, EncoderSettings(layer=2))
    assert len(cut.layers) == 2
    features, states = torch.randn(1, 64, 128), []
    whole = load(path).eval()
    whole.layers[1].register_forward_hook(lambda layer, inputs, frames: states.append(frames))
    with torch.inference_mode():
        whole(features)
        assert torch.equal(cut.eval()(features).last_hidden_state[0], states[0])


def test_a_composite_around_an_archive(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "model.nemo")
    composite = build_composite(make_recipe(tmp_path, model={"speech_encoder": str(path)}).model, seed=0)
    assert composite.num_audio_tokens(16_000) == 13
    assert composite.front_end.config.num_mels == 128


def test_the_verb_writes_a_folder_that_gives_the_same(tmp_path: Path) -> None:
    path, out = write_archive(tmp_path / "model.nemo"), tmp_path / "encoder"
    command = ["prepare", "encoder", str(path), "--out", str(out)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0 and "left in the archive: 1 tensors of decoder" in result.output
    expected = load(path).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in load(out).state_dict().items())
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 2 and "it is there already; a new folder" in again.output.replace("\n", " ")


class Hostile:
    """A pickle of this runs a command where it is loaded without care."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch pwned",)


def hostile_weights() -> bytes:
    buffer = io.BytesIO()
    torch.save({"encoder.x": Hostile()}, buffer)
    return buffer.getvalue()


def with_changed(key: str, value: Tensor | None) -> dict[str, Tensor]:
    state = make_state()
    if value is None:
        del state[key]
    else:
        state[key] = value
    return state


BAD_WEIGHTS: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "a pickle that would run code": (
        lambda: {"weights": hostile_weights()},
        r"model_weights.ckpt would run code or is no checkpoint \(.*posix.system.*\); tensors alone\. Do not load it",
    ),
    "a bare pickle": (
        lambda: {"weights": pickle.dumps(Hostile())},
        r"model_weights.ckpt would run code or is no checkpoint \(.*\); tensors alone\. Do not load it elsewhere",
    ),
    "a missing key": (
        lambda: {"state": with_changed("encoder.layers.1.self_attn.pos_bias_u", None)},
        r"1 tensors do not fit: 'layers.1.self_attn.bias_u' is missing; the 132 tensors of the encoder that its config",
    ),
    "a surplus key": (
        lambda: {"state": with_changed("encoder.layers.3.norm_out.bias", torch.ones(64))},
        r"1 tensors do not fit: 'layers.3.norm_out.bias' is surplus; .* Get the archive again, or one whose parts",
    ),
    "another shape": (
        lambda: {"state": with_changed("encoder.pre_encode.out.bias", torch.ones(63))},
        r"1 tensors do not fit: 'subsampling.linear.bias' has shape \(63,\) instead of \(64,\); the 132 tensors",
    ),
    "other mel filters": (
        lambda: {"state": with_changed("preprocessor.featurizer.fb", torch.ones(1, 128, 257))},
        r"'preprocessor.featurizer.fb' is of other values; the window and mel filters of our features\. Choose",
    ),
    "values that are no tensors": (
        lambda: {"state": {"encoder.x": 1}},
        r"model_weights.ckpt holds other things than tensors \(\['encoder.x'\]\); tensors by name\. Get the archive",
    ),
    "half a checkpoint": (
        lambda: {"weights": hostile_weights()[:-100]},
        r"model_weights.ckpt (cannot be read|would run code or is no checkpoint)",
    ),
}


@pytest.mark.parametrize("case", BAD_WEIGHTS)
def test_weights_that_are_refused(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make, message = BAD_WEIGHTS[case]
    path = write_archive(tmp_path / "model.nemo", **make())
    with pytest.raises(ModelError, match=rf"^{re.escape(str(path))}: {message}"):
        load(path)
    assert not (tmp_path / "pwned").exists()


def config_with(section: str, **changes: Any) -> dict[str, Any]:
    config = model_config(ENCODER)
    config[section] = config[section] | changes
    return config


BAD_CONFIGS: dict[str, tuple[Any, str]] = {
    "another subsampling": (config_with("encoder", subsampling="vggnet"), r"encoder.subsampling is 'vggnet', not 'dw_"),
    "another norm": (
        config_with("encoder", conv_norm_type="layer_norm"),
        r"encoder.conv_norm_type is 'layer_norm', not",
    ),
    "limited context": (
        config_with("encoder", att_context_size=[70, 13]),
        r"encoder.att_context_size is \[70, 13\], not None or \[-1, -1\] or \[\[-1, -1\]\]; a FastConformer",
    ),
    "an unknown setting": (
        config_with("encoder", wings=2),
        r"encoder.wings is not known; a FastConformer encoder over 16",
    ),
    "another encoder": (config_with("encoder", _target_="nemo.X"), r"encoder._target_ is nemo.X, not ConformerEncoder"),
    "another preprocessor": (
        config_with("preprocessor", normalize="all_features", window_size=0.02, features=80),
        r"preprocessor.window_size is 0.02, not 0.025; preprocessor.normalize is 'all_features', not 'per_feature'; "
        r"preprocessor.features is 80, encoder.feat_in 128; a FastConformer",
    ),
    "no sections": (
        {"encoder": None},
        r"encoder._target_ is None, not ConformerEncoder; preprocessor._target_ is None",
    ),
    "an object": (
        "a: !!python/object/apply:os.system ['touch pwned']",
        r"model_config.yaml is no plain YAML \(could not",
    ),
    "a list": ("[1]", r"model_config.yaml holds a list; a mapping with 'encoder' and 'preprocessor'\. Get the archive"),
}


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_configurations_that_are_refused(case: str, tmp_path: Path) -> None:
    config, message = BAD_CONFIGS[case]
    path = write_archive(tmp_path / "model.nemo", config)
    with pytest.raises(ModelError, match=message):
        plan_encoder(str(path))
    assert not Path("pwned").exists()


def link(archive: tarfile.TarFile) -> None:
    member = tarfile.TarInfo("model_weights.ckpt")
    member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
    archive.addfile(member)


BAD_TARS: dict[str, tuple[Callable[[tarfile.TarFile], None], str]] = {
    "a path outside": (
        lambda archive: add(archive, "../model_config.yaml", b"{}"),
        r"member '../model_config.yaml' points outside the archive; plain files inside it\. Do not trust this archive",
    ),
    "an absolute path": (lambda archive: add(archive, "/x", b""), r"member '/x' points outside the archive"),
    "a link": (link, r"member 'model_weights.ckpt' is a link or a device; plain files inside it"),
    "no configuration": (lambda archive: add(archive, "x", b""), r"0 members 'model_config.yaml'; one, at the top"),
    "two configurations": (
        lambda archive: [add(archive, name, b"{}") for name in ("model_config.yaml", "./model_config.yaml")] and None,
        r"2 members 'model_config.yaml'; one, at the top\. Get the archive again from where it was published\.",
    ),
}


@pytest.mark.parametrize("case", BAD_TARS)
def test_archives_that_are_refused(case: str, tmp_path: Path) -> None:
    fill, message = BAD_TARS[case]
    with tarfile.open(tmp_path / "model.nemo", "w") as archive:
        fill(archive)
    with pytest.raises(ModelError, match=message):
        plan_encoder(str(tmp_path / "model.nemo"))


def test_archives_that_are_broken_or_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_archive(tmp_path / "model.nemo")
    with pytest.raises(ModelError, match=r"nowhere.nemo: there is no such file; a .nemo archive\. Check the path\."):
        plan_encoder("nowhere.nemo")
    cut = tmp_path / "cut.nemo"
    cut.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(ModelError, match=r"(the archive is broken or cut off|model_weights.ckpt cannot be read)"):
        load(cut)
    cut.write_bytes(gzip.compress(path.read_bytes(), 1)[:50_000])
    with pytest.raises(
        ModelError, match=r"the archive is broken or cut off \(.*\); a whole tar\. Get the archive again"
    ):
        load(cut)
    cut.write_bytes(b"no tar at all")
    with pytest.raises(ModelError, match=r"the archive is broken or cut off"):
        plan_encoder(str(cut))
    monkeypatch.setattr(nemo_archive, "MAX_WEIGHTS_BYTES", 1000)
    with pytest.raises(ModelError, match=r"model_weights.ckpt has [\d,]+ bytes; at most 1,000\. Get the archive"):
        load(path)
