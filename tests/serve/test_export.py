"""An exported folder, read by plain transformers in a process that has neither this package nor its dependencies."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jinja2 import TemplateError
from transformers import AutoModelForCausalLM, AutoProcessor
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from tests.tiny import make_recipe
from tests.tiny_encoders import make_family
from voicetextblender.audio.front_end import extract_features
from voicetextblender.audio.waveform import write_waveform
from voicetextblender.chat.conversation import AudioPart, Conversation, TextPart, Turn
from voicetextblender.errors import ModelError
from voicetextblender.model.build import Composite, build_composite
from voicetextblender.model.lora import merge_lora
from voicetextblender.model.reply import SpeechReplier
from voicetextblender.model.weights import load_composite, save_composite
from voicetextblender.serve.bundle import AUTO_MAP, bundle_sources, flat_name, rewrite
from voicetextblender.serve.export import export

ALLOWED = {"torch", "transformers", "numpy", "pydantic", *sys.stdlib_module_names}
"""What exported model code may import."""

LENGTHS = [9_001, 23_456, 700]

OUTSIDER = """
import json, sys
for name in ("voicetextblender", "jaxtyping", "peft"):
    sys.modules[name] = None  # as if it were not installed
import numpy as np, torch
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForCausalLM, AutoModelForMultimodalLM, AutoProcessor
torch.set_num_threads(1)
folder, asked, out = sys.argv[1:]
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForMultimodalLM.from_pretrained(folder, trust_remote_code=True).eval()
assert type(AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)) is type(model)
assert type(AutoModel.from_pretrained(folder, trust_remote_code=True)) is type(model.model)
assert type(AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=True)) is type(processor.feature_extractor)
results = {}
for number, messages in enumerate(json.loads(open(asked).read())):
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    with torch.inference_mode():
        results[f"logits{number}"] = model(**inputs).logits.numpy()
        reply = model.generate(**inputs, max_new_tokens=12)[0, inputs["input_ids"].shape[1]:]
    results[f"reply{number}"] = reply.numpy()
    results[f"ids{number}"] = inputs["input_ids"][0].numpy()
np.savez(out, **results)
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder of a run in which every part matters."""
    folder = tmp_path_factory.mktemp("run")
    composite = build_composite(make_recipe(folder).model, seed=0)
    torch.manual_seed(3)
    for name, parameter in composite.model.named_parameters():
        if ".lora_B." in name:
            parameter.data.normal_(0, 0.3)
    save_composite(composite, folder / "model")
    return folder / "model"


@pytest.fixture(scope="module")
def merged(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "merged"
    export(load_composite(saved), out)
    return out


def make_clips(folder: Path) -> list[tuple[Path, np.ndarray]]:
    random = np.random.default_rng(0)
    clips = []
    for index, length in enumerate(LENGTHS):
        waveform = random.normal(0, 0.1, length).astype(np.float32)
        write_waveform(folder / f"{index}.wav", waveform, 16_000)
        clips.append(
            (folder / f"{index}.wav", np.round(waveform * 32768).clip(-32768, 32767).astype(np.float32) / 32768)
        )
    return clips


def conversations(waveforms: list[np.ndarray]) -> list[Conversation]:
    first, second, third = (AudioPart(path=None, waveform=waveform) for waveform in waveforms)
    return [
        Conversation("text", (Turn("user", (TextPart("What is three plus five?"),)),)),
        Conversation("clip", (Turn("user", (TextPart("Say it again: "), first)),)),
        Conversation(
            "turns",
            (
                Turn("user", (second, TextPart(" and "), third)),
                Turn("assistant", (TextPart("eight"),)),
                Turn("user", (TextPart("Noch einmal. "), first)),
            ),
        ),
    ]


def as_messages(asked: Conversation, paths: dict[int, Path]) -> list[dict[str, Any]]:
    return [
        {
            "role": turn.role,
            "content": [
                {"type": "text", "text": part.text}
                if isinstance(part, TextPart)
                else {"type": "audio", "path": str(paths[len(part.waveform)])}  # type: ignore[arg-type]
                for part in turn.parts
            ],
        }
        for turn in asked.turns
    ]


def our_logits(composite: Composite, asked: Conversation) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and logits by our renderer and features."""
    waveforms = [torch.from_numpy(part.waveform) for part in asked.clips]
    counts = [composite.num_audio_tokens(len(waveform)) for waveform in waveforms]
    ids = torch.from_numpy(composite.renderer.render(asked, counts, add_generation_prompt=True).token_ids)
    inputs = {}
    if waveforms:
        features, mask = extract_features(composite.front_end, waveforms)
        inputs = {"input_features": features, "input_features_mask": mask}
    with torch.inference_mode():
        return ids, composite.model(input_ids=ids[None], **inputs).logits


def test_plain_transformers_gives_the_same_bits(saved: Path, merged: Path, tmp_path: Path) -> None:
    clips = make_clips(tmp_path)
    asked = conversations([waveform for _, waveform in clips])
    paths = {len(waveform): path for path, waveform in clips}
    (tmp_path / "asked.json").write_text(json.dumps([as_messages(one, paths) for one in asked]))
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "cache"), "PYTHONPATH": ""}
    arguments = [str(merged), str(tmp_path / "asked.json"), str(tmp_path / "results.npz")]
    subprocess.run([sys.executable, "-c", OUTSIDER, *arguments], check=True, env=environment, cwd=tmp_path)
    results = np.load(tmp_path / "results.npz")
    composite = load_composite(saved)
    merge_lora(composite.model)
    replies = SpeechReplier(composite).reply(asked, 12)
    for number, (one, reply) in enumerate(zip(asked, replies, strict=True)):
        ids, logits = our_logits(composite, one)
        assert results[f"ids{number}"].tolist() == ids.tolist()
        assert np.array_equal(results[f"logits{number}"], logits.numpy())
        theirs = composite.tokenizer.decode(results[f"reply{number}"], skip_special_tokens=True)
        assert theirs.strip() == reply


def test_bundled_modules_stand_alone() -> None:
    sources = bundle_sources()
    names = {flat_name(module) for module in sources}
    assert {target.split(".")[0] for target in AUTO_MAP.values()} <= names
    for module, source in sources.items():
        tree = ast.parse(source)
        guarded = {id(child) for node in ast.walk(tree) if isinstance(node, ast.Try) for child in ast.walk(node)}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and id(node) not in guarded:
                found = {str(node.module)} if node.level else {str(node.module).split(".")[0]}
                assert found <= (names if node.level else ALLOWED), (module, found)
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= ALLOWED, module
        assert ".register(" not in source


def test_rewriting_touches_imports_and_registrations_alone() -> None:
    source = (
        "from __future__ import annotations\n\nfrom jaxtyping import Float\n"
        "from voicetextblender.audio.lengths import (\n    HOP_LENGTH,\n)\n\n"
        "from .configuration import VoiceTextBlenderConfig\nVALUE = HOP_LENGTH\n"
        "def call(x: Float):  # from voicetextblender\n    return x\nAutoModel.register(\n    VALUE,\n)\n"
    )
    rewritten, imported = rewrite(source, "model.made_up")
    assert imported == ["audio.lengths", "model.configuration"]
    assert rewritten == (
        "from __future__ import annotations\n\ntry:  # only named in annotations\n    from jaxtyping import Float\n"
        "except ImportError:\n    pass\nfrom .audio_lengths import (\n    HOP_LENGTH,\n)\n\n"
        "from .model_configuration import VoiceTextBlenderConfig\nVALUE = HOP_LENGTH\n"
        "def call(x: Float):  # from voicetextblender\n    return x\n"
    )


PARTS: dict[str, tuple[str, dict[str, Any]]] = {
    "linear": ("whisper", {"kind": "linear"}),
    "stack": ("wav2vec2", {"kind": "stack", "width": 16}),
    "qformer": ("w2v_bert", {"kind": "qformer", "num_heads": 2}),
    "conformer": ("hubert_large", {"num_heads": 2}),
}


@pytest.mark.parametrize("kind", PARTS)
def test_every_adapter_and_encoder_comes_back(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    family, adapter = PARTS[kind]
    encoder = make_family(family, tmp_path / "encoder_of_family")
    parts = {"speech_encoder": str(encoder), "encoder": {"overlap_s": 0.2}, "adapter": adapter}
    recipe = make_recipe(tmp_path, model=parts)
    composite = build_composite(recipe.model, seed=0)
    export(composite, tmp_path / "out")
    classes = (
        get_class_from_dynamic_module(AUTO_MAP[name], tmp_path / "out")
        for name in ("AutoModelForCausalLM", "AutoProcessor")
    )
    model_class, processor_class = classes
    assert model_class.__module__.startswith("transformers_modules.")
    loaded, processor = (
        model_class.from_pretrained(tmp_path / "out").eval(),
        processor_class.from_pretrained(tmp_path / "out"),
    )
    waveforms = [waveform for _, waveform in make_clips(tmp_path)]
    text = processor.audio_token * len(waveforms)
    inputs = processor(text=[text], audio=waveforms, sampling_rate=16_000, return_tensors="pt")
    counts = [composite.num_audio_tokens(len(waveform)) for waveform in waveforms]
    assert inputs["input_ids"].shape == (1, sum(counts))
    features, mask = extract_features(composite.front_end, [torch.from_numpy(waveform) for waveform in waveforms])
    for parameter in (*composite.model.parameters(), *loaded.parameters()):
        # A file's weights are mapped where they lie in it; some processors' convolutions round by that address.
        parameter.data = parameter.data.clone()
    with torch.inference_mode():
        expected = composite.model(input_ids=inputs["input_ids"], input_features=features, input_features_mask=mask)
        assert torch.equal(loaded(**inputs).logits, expected.logits)
    config = json.loads((tmp_path / "out" / "config.json").read_text())["audio_config"]
    limit = config.get("max_source_positions") or config["max_position_embeddings"]
    assert composite.num_audio_tokens(int(processor.feature_extractor.chunk_length * 16_000)) <= limit


def test_lora_beside_the_base_is_the_trained_model(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft import PeftModel

    export(load_composite(saved), tmp_path / "out", "lora")
    composite = load_composite(saved)
    waveforms = [waveform for _, waveform in make_clips(tmp_path)]
    ids, expected = our_logits(composite, conversations(waveforms)[0])
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=True).eval()
    with torch.inference_mode():
        assert not torch.equal(base(input_ids=ids[None]).logits, expected)
        adapted = PeftModel.from_pretrained(base, str(tmp_path / "out" / "lora")).eval()
        assert torch.equal(adapted(input_ids=ids[None]).logits, expected)
    (tmp_path / "out" / "README.md").read_text().index("--enable-lora")


def test_parts_are_what_training_made(saved: Path, tmp_path: Path) -> None:
    export(load_composite(saved), tmp_path / "out", "parts")
    assert (tmp_path / "out" / "lora" / "adapter_config.json").is_file()
    state, again = load_composite(saved).model.state_dict(), load_composite(tmp_path / "out").model.state_dict()
    assert all(torch.equal(again[name], value) for name, value in state.items())


def test_shards_and_bf16(saved: Path, tmp_path: Path) -> None:
    export(load_composite(saved), tmp_path / "out", precision="bf16", max_shard_gb=0.0001)
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["dtype"] == "bfloat16" and config["auto_map"] == AUTO_MAP
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=True)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}


def test_nothing_is_overwritten_and_a_failure_leaves_nothing(
    saved: Path, merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    composite = load_composite(saved)
    with pytest.raises(ModelError, match=r"merged: is not empty; a folder that is new or empty\. Choose another --out"):
        export(composite, merged)
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "left_over").touch()
    monkeypatch.setattr("voicetextblender.serve.export.write_bundle", lambda folder: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export(composite, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_lora_is_refused_where_there_is_none(saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "frozen"
    composite = build_composite(make_recipe(folder, model={"trainable": {"llm": "frozen"}}).model, seed=0)
    with pytest.raises(ModelError, match=r"form 'lora': model.trainable.llm was 'frozen'; a run that trained LoRA"):
        export(composite, tmp_path / "out", "lora")


def test_text_that_spells_the_audio_token_is_refused(merged: Path) -> None:
    processor = AutoProcessor.from_pretrained(merged, trust_remote_code=True)
    content = [{"type": "text", "text": "Ignore this <|audio|>."}, {"type": "audio"}]
    with pytest.raises(TemplateError, match=r"A text part spells <\|audio\|>, which stands for a clip"):
        processor.apply_chat_template([{"role": "user", "content": content}])
