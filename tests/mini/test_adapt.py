"""An encoder that goes on learning from recordings: whose they are, what is kept, what it starts from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from tests.mini.test_base_encoder import CONFIG, QUIET, TEXTS, make_clips
from voicetextblender.audio.augment import SpecAugmentConfig
from voicetextblender.audio.distort import AugmentConfig, GainConfig, SpeedConfig
from voicetextblender.audio.features import LogMelConfig
from voicetextblender.cli.main import app
from voicetextblender.errors import DataError, ModelError
from voicetextblender.mini.adapt import AdaptData, adapt_encoder, adaptation, collect_clips
from voicetextblender.mini.base_encoder import (
    ClipBatches,
    TranscribedClip,
    build_base_encoder,
    copy_base_encoder,
    pretrain_base_encoder,
    train_ctc_tokenizer,
)
from voicetextblender.model.encoders.plan import plan_encoder
from voicetextblender.model.transcribe import CtcTranscriber

CHANGED = CONFIG.model_copy(
    update={
        "augment": AugmentConfig(speed=SpeedConfig(factors=(0.8, 1.25)), gain=GainConfig(probability=1.0)),
        "spec_augment": SpecAugmentConfig(num_frequency_masks=1, num_time_masks=1),
    }
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tiny encoder."""
    folder = tmp_path_factory.mktemp("base")
    pretrain_base_encoder(make_clips(folder / "clips"), folder / "encoder", CONFIG, QUIET)
    return folder / "encoder"


def write_corpus(folder: Path) -> Path:
    """Two speakers with eight recordings each, every fourth of the test split."""
    rows = []
    for number, clip in enumerate(make_clips(folder, 4)):
        rows.append(
            {
                "id": str(number),
                "audio": clip.path.name,
                "text": clip.text,
                "lang": "en",
                "speaker": ("anna", "ben")[number % 2],
                "split": "test" if number % 4 == 3 else "train",
            }
        )
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def write_manifest(path: Path, clips: list[TranscribedClip]) -> Path:
    with path.open("w") as file:
        for clip in clips:
            content = [{"type": "audio", "path": str(clip.path), "transcript": clip.text}]
            messages = [{"role": "user", "content": content}, {"role": "assistant", "content": "yes"}]
            file.write(json.dumps({"id": clip.path.stem, "messages": messages}) + "\n")
    return path


def test_recordings_are_those_of_training_splits_and_of_manifests(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    assert len(collect_clips([corpus], []).recordings) == 12
    clips = make_clips(tmp_path / "clips")
    manifest = write_manifest(tmp_path / "train.jsonl", clips)
    assert collect_clips([corpus, manifest], []).recordings[12:] == tuple(clips)
    with pytest.raises(DataError, match="does not exist"):
        collect_clips([tmp_path / "none.jsonl"], [])
    silent = write_manifest(tmp_path / "silent.jsonl", [TranscribedClip(clips[0].path, 0, "")])
    with pytest.raises(DataError, match=r"silent\.jsonl: there is no training recording; one at least\."):
        collect_clips([silent], [])


def test_a_share_of_the_clips_that_manifests_name_is_kept(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    clips = make_clips(tmp_path / "clips", 40)
    manifest = write_manifest(tmp_path / "train.jsonl", clips)
    kept = collect_clips([corpus], [manifest, manifest]).kept
    assert set(kept) < set(clips) and 10 < len(kept) < 60
    assert kept == collect_clips([corpus], [manifest]).kept


def test_clips_sound_another_way_in_each_epoch_and_the_same_way_again(tmp_path: Path) -> None:
    clips, tokenizer = make_clips(tmp_path, 1), train_ctc_tokenizer(TEXTS, 110)
    data = ClipBatches(clips, tokenizer, CHANGED, tmp_path)
    first, second = data.batch(0)[0], data.batch(1)[0]
    assert first.shape != second.shape or not torch.equal(first, second)
    assert torch.equal(first, ClipBatches(clips, tokenizer, CHANGED, tmp_path).batch(0)[0])


def test_it_starts_from_the_encoder_and_the_pieces_that_it_knows(base: Path, tmp_path: Path) -> None:
    tokenizer = train_ctc_tokenizer((*TEXTS, "lower lower slower"), 110)
    model = build_base_encoder(CONFIG, tokenizer)
    copy_base_encoder(base, model, tokenizer)
    old = build_base_encoder(CONFIG, train_ctc_tokenizer(TEXTS, 110))
    copy_base_encoder(base, old, train_ctc_tokenizer(TEXTS, 110))
    for name, tensor in old.encoder.state_dict().items():
        assert torch.equal(tensor, model.encoder.state_dict()[name])
    places, new_places = train_ctc_tokenizer(TEXTS, 110).get_vocab(), tokenizer.get_vocab()
    shared = sorted(set(places) & set(new_places))
    assert len(shared) > 80
    for piece in shared:
        assert torch.equal(model.ctc_head.weight[new_places[piece]], old.ctc_head.weight[places[piece]])


def test_another_size_and_a_missing_encoder_are_refused(base: Path, tmp_path: Path) -> None:
    tokenizer = train_ctc_tokenizer(TEXTS, 110)
    wider = build_base_encoder(CONFIG.model_copy(update={"hidden_size": 128}), tokenizer)
    with pytest.raises(ModelError, match=r"its encoder has [\d,]+ parameters; one of [\d,]+, in the same layers"):
        copy_base_encoder(base, wider, tokenizer)
    with pytest.raises(ModelError, match="there is no encoder; a folder of a ParakeetForCTC model"):
        copy_base_encoder(tmp_path, wider, tokenizer)


def test_an_adapted_encoder_is_a_folder_like_the_base(base: Path, tmp_path: Path) -> None:
    data = AdaptData(tuple(make_clips(tmp_path / "clips")), (), ())
    result = adapt_encoder(base, data, tmp_path / "adapted", CHANGED, QUIET)
    assert len(result.losses) == 6
    assert {path.name for path in (tmp_path / "adapted").iterdir()} == {path.name for path in base.iterdir()}


def test_features_of_a_narrow_band_go_with_the_encoder(base: Path, tmp_path: Path) -> None:
    config = CHANGED.model_copy(update={"features": adaptation(6, narrow_band=True).features})
    clips = make_clips(tmp_path / "clips")
    adapt_encoder(base, AdaptData(tuple(clips), (), ()), tmp_path / "adapted", config, QUIET)
    expected = LogMelConfig(normalise="clip", band_limit_hz=4000.0)
    assert plan_encoder(str(tmp_path / "adapted")).front_end == expected
    assert CtcTranscriber(tmp_path / "adapted").features.config == expected
    assert plan_encoder(str(base)).front_end == LogMelConfig()


def test_the_verb_tells_of_a_missing_base(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    arguments = ["prepare", "adapt", str(corpus), "--out", str(tmp_path / "out"), "--start", str(tmp_path / "none")]
    result = CliRunner().invoke(app, [*arguments, "--keep", str(tmp_path)])
    assert result.exit_code == 2
    assert "12 recordings" in result.output
    assert f"{tmp_path}/none: there is no encoder" in result.stderr
