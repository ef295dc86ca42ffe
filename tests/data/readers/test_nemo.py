"""NeMo manifests in the shapes of its own tools, and of the VoiceTextBlender authors' scripts."""

from __future__ import annotations

import io
import json
import pickle
import random
import re
import tarfile
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.readers.reading import OpenKind, read_all, say, write_lines
from tests.data.rows import write_tone
from voicetextblender.audio.waveform import read_waveform
from voicetextblender.chat.clips import count_samples, read_clip
from voicetextblender.chat.conversation import AudioPart
from voicetextblender.chat.render import Renderer
from voicetextblender.data.loader import DataConfig, build_loader
from voicetextblender.data.measure import Geometry
from voicetextblender.data.readers.tar import Tars
from voicetextblender.errors import AudioError, DataError


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_transcription_is_asked_in_many_ways(open_kind: OpenKind, tmp_path: Path) -> None:
    row = {"audio_filepath": "a.wav", "duration": 1.5, "offset": 0.25, "text": "Guten Tag.", "lang": "de"}
    write_lines(tmp_path / "m.json", [row])
    source = open_kind("nemo", "m.json")
    wordings = source.wordings(next(iter(source.scan())))
    assert len({say(one)[0] for one in wordings}) == len(wordings) > 20
    assert {say(one)[1] for one in wordings} == {"assistant: Guten Tag."}
    assert {one.clips for one in wordings} == {(AudioPart(str(tmp_path / "a.wav"), 0.25, 1.5, "Guten Tag."),)}
    asked = {say(one)[0] for one in wordings}
    assert {"user: Transkribiere: [a.wav]", "user: [a.wav] Transcribe this."} <= asked
    one = read_all(source)[0]
    assert (one.task, one.language, one.id) == ("transcription", "de", "m.json:1")
    keys = random.Random(0).sample(range(1 << 62), 400)
    assert {say(source.parse(next(iter(source.scan())), key))[0] for key in keys} == asked


def test_translation_names_the_target_language(open_kind: OpenKind, tmp_path: Path) -> None:
    row = {
        "audio_filepath": "/x/a.wav",
        "duration": 2,
        "text": "Good day.",
        "source_lang": "de-AT",
        "target_lang": "en",
    }
    write_lines(tmp_path / "m.json", [row])
    source = open_kind("nemo", "m.json")
    asked = {say(one)[0] for one in source.wordings(next(iter(source.scan())))}
    assert {"user: Translate into English: [a.wav]", "user: Übersetze ins Englische: [a.wav]"} <= asked
    one = read_all(source)[0]
    assert (one.task, one.language, one.clips) == ("translation", "de-AT", (AudioPart("/x/a.wav", 0.0, 2.0),))


def test_prompts_of_the_recipe(open_kind: OpenKind, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"audio_filepath": "a.wav", "text": "Hi.", "lang": "en"},
        {"audio_filepath": "a.wav", "text": "Salut.", "source_lang": "en", "target_lang": "fr"},
        {"audio_filepath": "a.wav", "question": "Who {clip}?", "answer": "I."},
    ]
    write_lines(tmp_path / "m.json", rows)
    prompts = {"transcription": ["Words of {clip}"], "translation": ["{clip} in {language}!"], "package": False}
    source = open_kind("nemo", "m.json", prompts={**prompts, "answering": ["Q: {question} A: {clip}"]})
    assert [say(one)[0] for one in read_all(source)] == [
        "user: Words of [a.wav]",
        "user: [a.wav] in French!",
        "user: Q: Who {clip}? A: [a.wav]",
    ]
    source = open_kind("nemo", "m.json", prompts=prompts)
    with pytest.raises(
        DataError, match=r"m.json:3: there is no wording for a row of answering; .*prompts\.answering\."
    ):
        read_all(source)
    wordings = [len(open_kind("nemo", "m.json", **options).wordings(next(iter(source.scan()))))
                for options in ({}, {"prompts": {"transcription": ["More of {clip}"]}})]  # fmt: skip
    assert wordings[1] == wordings[0] + 1


def test_spoken_question_answering_of_the_authors(open_kind: OpenKind, tmp_path: Path) -> None:
    row = {
        "audio_filepath": "a.wav",
        "duration": 3.2,
        "shard_id": 0,
        "target_lang": "en",
        "original_text": "The bus leaves at nine.",
        "question": "When does the bus leave?",
        "answer": "At nine.",
    }
    write_lines(tmp_path / "m.json", [row, {"audio_filepath": "a.wav", "context": "Who?", "answer": "Ann."}])
    first, second = read_all(open_kind("nemo", "m.json"))
    assert say(first) == ["user: [a.wav] When does the bus leave?", "assistant: At nine."]
    assert first.task == "answering" and say(second)[0] == "user: [a.wav] Who?"
    orders = {say(one)[0] for one in (read_all(open_kind("nemo", "m.json"), key)[0] for key in range(4))}
    assert "user: When does the bus leave? [a.wav]" in orders and len(orders) == 4


def test_mixed_modal_rows_of_the_authors(open_kind: OpenKind, tmp_path: Path) -> None:
    row = {
        "id": "7_0",
        "audio_filepath": "audios/7_0.wav",
        "duration": 2.5,
        "system": "",
        "mask": "User",
        "dataset": "tts-sft",
        "conversations": [
            {"from": "User", "value": "Plan a trip. <unused0> Be brief.", "canonical_form": "", "label": None},
            {"from": "Assistant", "value": "Go to Rome.", "canonical_form": "", "label": None},
        ],
        "answer": "Go to Rome.",
        "target_lang": "en",
    }
    write_lines(tmp_path / "m.json", [row])
    (one,) = read_all(open_kind("nemo_conversation", "m.json"))
    assert say(one) == ["user: Plan a trip. [7_0.wav] Be brief.", "assistant: Go to Rome."]
    assert (one.id, one.task, one.language, one.clips[0].duration_s) == ("7_0", "mixed", "en", 2.5)
    assert read_all(open_kind("nemo", "m.json")) == [one]
    with pytest.raises(DataError, match=r"m.json:1: 0 marks for the clip; one turn has the mark, <x>\. Set audio_mark"):
        read_all(open_kind("nemo_conversation", "m.json", audio_mark="<x>"))


CONVERSATION = {
    "id": "convo_1",
    "conversations": [
        {"from": "User", "value": "Can you sum this up?", "type": "text"},
        {"from": "User", "value": "123.wav", "type": "audio", "duration": 5.73},
        {"from": "Assistant", "value": "Gladly:", "type": "text"},
        {"from": "Assistant", "value": "A fox came by.", "type": "text"},
        {"from": "User", "value": "Shorter?", "type": "text"},
        {"from": "Assistant", "value": "A fox.", "type": "text"},
    ],
}


def test_multimodal_conversation(open_kind: OpenKind, tmp_path: Path) -> None:
    write_lines(tmp_path / "m.jsonl", [CONVERSATION])
    (one,) = read_all(open_kind("nemo_conversation", "m.jsonl"))
    assert say(one) == [
        "user: Can you sum this up? [123.wav]",
        "assistant: Gladly: A fox came by.",
        "user: Shorter?",
        "assistant: A fox.",
    ]
    assert one.clips == (AudioPart(str(tmp_path / "123.wav"), 0.0, 5.73),)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("x", "m.jsonl:1: found 'x'; an object with named values is expected. Rewrite it."),
        ({"conversations": []}, "m.jsonl:1: 'conversations' is []; a list of turns is expected. Write turns."),
        ({"conversations": [{"from": "Robot", "value": "a"}]}, "m.jsonl:1 turn 1: the speaker is 'Robot'; known are"),
        ({"conversations": [{"from": "User"}]}, "m.jsonl:1 turn 1: the turn lacks 'value'; it must have 'from' and"),
        ({"conversations": [{"from": "User", "value": "a", "type": "image"}]}, "turn 1: 'type' is 'image'; a turn is"),
        (
            {"conversations": [{"from": "Assistant", "value": "a.wav", "type": "audio"}]},
            "m.jsonl:1 turn 1: the assistant turn holds audio; audio may stand in system and user turns only.",
        ),
        (
            {"conversations": [{"from": "User", "value": "a.wav", "type": "audio", "duration": "3"}]},
            "m.jsonl:1 turn 1: 'duration' is '3'; a number of seconds, more than 0 s, is expected. Fix 'duration'.",
        ),
        ({"audio_filepath": "a.wav", "text": " "}, "m.jsonl:1: the row has no text; 'text', 'sentence', "),
        ({"audio_filepath": 7, "text": "a"}, "m.jsonl:1: the clip is 7; a path is expected. Write the path."),
        ({"audio_filepath": "a", "text": "a", "offset": -1}, "m.jsonl:1: the start is -1; a number of seconds, at"),
        ({"audio_filepath": "a", "text": "a", "_skipme": True}, "m.jsonl:1: the row is marked '_skipme'; such a row"),
        ({"text": "a"}, "m.jsonl:1: the row has no audio; 'audio_filepath', 'audio', 'path', 'file', 'file_name', "),
        (
            {"audio_filepath": "a", "text": "a", "source_lang": "en", "target_lang": "xx"},
            "m.jsonl:1: the target language is 'xx'; known are ar, bg, ",
        ),
    ],
)
def test_rows_that_are_refused(open_kind: OpenKind, tmp_path: Path, row: object, message: str) -> None:
    write_lines(tmp_path / "m.jsonl", [row])
    with pytest.raises(DataError, match=re.escape(message)):
        read_all(open_kind("nemo", "m.jsonl"))


@pytest.fixture
def shards(tmp_path: Path) -> list[list[dict[str, Any]]]:
    """Three tars of clips of random length, and their manifests in NeMo's sharded form."""
    chance, manifests = random.Random(3), []
    for shard in range(3):
        members, rows = {}, []
        for number in range(chance.randint(1, 4)):
            name = f"{shard}_{number}.flac"
            write_tone(tmp_path / "clips" / name, 0.3 + chance.random(), chance.choice([8_000, 16_000]))
            members[name] = (tmp_path / "clips" / name).read_bytes()
            rows.append({"audio_filepath": name, "text": f"clip {name}", "shard_id": shard, "lang": "en"})
        write_tar(tmp_path / f"audio_{shard}.tar", members)
        manifests.append(rows)
    return manifests


@pytest.mark.parametrize("is_sharded", [True, False])
def test_members_of_tars_are_read_in_place(
    open_kind: OpenKind, tmp_path: Path, shards: list[list[dict[str, Any]]], is_sharded: bool
) -> None:
    if is_sharded:
        for shard, rows in enumerate(shards):
            write_lines(tmp_path / "sharded_manifests" / f"manifest_{shard}.json", rows)
    else:
        write_lines(tmp_path / "manifest.json", [row for rows in shards[::-1] for row in rows])
    source = open_kind(
        "nemo_tarred",
        "sharded_manifests/manifest__OP_0..2_CL_.json" if is_sharded else "manifest.json",
        tars=f"{tmp_path}/audio_{{0..2}}.tar",
    )
    conversations = read_all(pickle.loads(pickle.dumps(source)))
    assert sorted(one.turns[-1].text for one in conversations) == sorted(row["text"] for s in shards for row in s)
    for one in conversations:
        (clip,) = one.clips
        waveform = read_clip(clip)
        np.testing.assert_array_equal(waveform, read_waveform(tmp_path / "clips" / (clip.transcript or "")[5:]))
        assert count_samples(clip) == len(waveform)
    assert not list(tmp_path.glob("cache/*.flac"))


def test_every_one_of_many_members_is_found(tmp_path: Path) -> None:
    contents = {f"speaker/{number}.txt": str(number).encode() for number in range(3000)}
    path = write_tar(tmp_path / "a.tar", {**contents, "./dotted.txt": b"dotted"})
    whole, tars = path.read_bytes(), Tars(str(path), "train", tmp_path)
    for name, content in {**contents, "dotted.txt": b"dotted"}.items():
        clip = tars.find(0, (name,), "here")
        assert whole[clip.byte_offset : clip.byte_offset + (clip.num_bytes or 0)] == content
    with pytest.raises(DataError, match=r"^here: '3000.txt' is not in"):
        tars.find(0, ("3000.txt", "speaker/3000.txt"), "here")


def test_segments_of_one_member(open_kind: OpenKind, tmp_path: Path) -> None:
    write_tone(tmp_path / "a.flac", 2.0)
    write_tar(tmp_path / "audio_0.tar", {"a.flac": (tmp_path / "a.flac").read_bytes()})
    row = {"duration": 0.5, "text": "x", "shard_id": 0}
    rows = [{"audio_filepath": f"a-sub{n}.flac", "offset": 0.5 * n, **row} for n in (1, 2)]
    write_lines(tmp_path / "m.json", rows)
    source = open_kind("nemo_tarred", "m.json", tars=str(tmp_path / "audio_0.tar"))
    for number, one in enumerate(read_all(source), 1):
        expected = read_waveform(tmp_path / "a.flac", start_s=0.5 * number, duration_s=0.5)
        np.testing.assert_array_equal(read_clip(one.clips[0]), expected)


def test_tarred_conversation(open_kind: OpenKind, tmp_path: Path) -> None:
    write_tone(tmp_path / "clip.flac", 1.0)
    write_tar(tmp_path / "audio_0.tar", {"123.wav": (tmp_path / "clip.flac").read_bytes(), "123.json": b"{}"})
    write_lines(tmp_path / "manifest_0.jsonl", [CONVERSATION])
    source = open_kind("nemo_conversation", "manifest_{0..0}.jsonl", tars=f"{tmp_path}/audio_{{0..0}}.tar")
    assert len(read_clip(AudioPart(**{**vars(read_all(source)[0].clips[0]), "duration_s": None}))) == 16_000


def test_remote_tars_and_clips(open_kind: OpenKind, tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    write_tone(tmp_path / "a.flac", 1.0)
    write_tar(tmp_path / "audio_0.tar", {"a.flac": (tmp_path / "a.flac").read_bytes()})
    for name in ("audio_0.tar", "a.flac"):
        with fsspec.open(f"memory://nemo/{name}", "wb") as file:
            file.write((tmp_path / name).read_bytes())
    write_lines(tmp_path / "m.json", [{"audio_filepath": "a.flac", "text": "x"}])
    tarred = open_kind("nemo_tarred", "m.json", tars="memory://nemo/audio_0.tar")
    plain = open_kind("nemo", "m.json", audio_folder="memory://nemo")
    for source in (tarred, plain):
        (clip,) = read_all(source)[0].clips
        np.testing.assert_array_equal(read_clip(clip), read_waveform(tmp_path / "a.flac"))
    gone = AudioPart("memory://nemo/gone.flac")
    with pytest.raises(AudioError, match=r"^m:1: audio 'memory://nemo/gone.flac' cannot be read \(.*an audio file is"):
        read_clip(gone, "m:1")


def test_tars_that_are_refused(open_kind: OpenKind, tmp_path: Path) -> None:
    write_lines(tmp_path / "m.json", [{"audio_filepath": "a.flac", "text": "x", "shard_id": 5}])
    with pytest.raises(DataError, match=r"source 'train': '\S*gone.tar' does not exist; tars names tar files\."):
        open_kind("nemo_tarred", "m.json", tars=f"{tmp_path}/gone.tar")
    write_tar(tmp_path / "audio_0.tar", {"b.flac": b"x"})
    with pytest.raises(
        DataError, match=r"m.json:1: 'a.flac' is not in '\S*audio_0.tar'; the clip of a row is a member"
    ):
        read_all(open_kind("nemo_tarred", "m.json", tars=f"{tmp_path}/audio_0.tar"))
    write_tar(tmp_path / "audio_1.tar", {"b.flac": b"x"}, "w:gz")
    with pytest.raises(DataError, match=r"m.json:1: 'shard_id' is 5; a row tells which of the 2 tars has its clip\."):
        read_all(open_kind("nemo_tarred", "m.json", tars=f"{tmp_path}/audio_{{0..1}}.tar"))
    with pytest.raises(
        DataError, match=r"audio_1.tar: cannot be listed \(.*\); an uncompressed tar is needed, so that"
    ):
        read_all(open_kind("nemo_tarred", "m.json", tars=f"{tmp_path}/audio_1.tar"))


def test_a_tar_made_again_is_listed_again(open_kind: OpenKind, tmp_path: Path) -> None:
    write_lines(tmp_path / "m.json", [{"audio_filepath": "a.flac", "text": "x"}])
    for padding in (b"", b"x" * 5000):
        write_tone(tmp_path / "a.flac", 0.5)
        write_tar(tmp_path / "audio_0.tar", {"b.txt": padding, "a.flac": (tmp_path / "a.flac").read_bytes()})
        source = open_kind("nemo_tarred", "m.json", tars=f"{tmp_path}/audio_0.tar")
        assert len(read_clip(read_all(source)[0].clips[0])) == 8_000


def test_real_recordings_from_a_tar(
    open_kind: OpenKind, shared_data: Path, tmp_path: Path, renderer: Renderer, geometry: Geometry
) -> None:
    """German and English sentences, tarred and blended; what is decoded is what is in the files."""
    sources, files = [], {}
    for language, corpus in (("de", "kerstin_de"), ("en", "kathleen_arctic_en")):
        lines = (shared_data / corpus / "manifest.jsonl").read_text("utf-8").splitlines()[:5]
        rows = [json.loads(line) for line in lines]
        files |= {row["text"]: shared_data / corpus / row["audio"] for row in rows}
        members = {Path(row["audio"]).name: (shared_data / corpus / row["audio"]).read_bytes() for row in rows}
        write_tar(tmp_path / f"audio_{language}_0.tar", members)
        kept = [{"audio_filepath": Path(row["audio"]).name, "text": row["text"], "lang": row["lang"]} for row in rows]
        write_lines(tmp_path / f"manifest_{language}_0.json", kept)
        tars = str(tmp_path / f"audio_{language}_0.tar")
        path = str(tmp_path / f"manifest_{language}_0.json")
        sources.append({"name": language, "kind": "nemo_tarred", "path": path, "tars": tars})
    values = {"sources": sources, "conversations_per_step": 10, "num_workers": 2, "cache_dir": str(tmp_path / "cache")}
    loader = build_loader(DataConfig.model_validate(values), renderer, geometry, seed=0)
    for step, (batches, *_) in enumerate(loader.steps(0, 3)):
        for rows, batch in zip(loader.plan.step(step), batches, strict=True):
            for draw, waveform in zip(chain.from_iterable(rows), batch.waveforms, strict=True):
                text = loader.indexes[draw.source].read(draw.row).turns[1].text
                np.testing.assert_array_equal(waveform.numpy(), read_waveform(files[text]))


def test_real_corpora_as_they_lie(open_kind: OpenKind, shared_data: Path) -> None:
    for corpus, language in (("kerstin_de", "de"), ("kathleen_arctic_en", "en"), ("fsdd_digits_en", "en")):
        source = open_kind("nemo", str(shared_data / corpus / "manifest.jsonl"))
        rows = list(source.scan())
        assert len(rows) > 1000
        for row in random.Random(0).sample(rows, 3):
            one = source.read(row.line, row.offset, len(row.content))
            assert one.language == language and one.clips[0].transcript == one.turns[1].text
            assert len(read_clip(one.clips[0])) == count_samples(one.clips[0])


def test_a_broken_member_is_named(open_kind: OpenKind, tmp_path: Path) -> None:
    write_tar(tmp_path / "audio_0.tar", {"a.flac": b"This is no audio.", "b.flac": b""})
    write_lines(tmp_path / "m.json", [{"audio_filepath": f"{name}.flac", "text": "x"} for name in "ab"])
    first, second = read_all(open_kind("nemo_tarred", "m.json", tars=f"{tmp_path}/audio_0.tar"))
    expected = r"^m:1: audio '\S*audio_0.tar, bytes 512 to 529' cannot be read by libsndfile \("
    with pytest.raises(AudioError, match=expected):
        count_samples(first.clips[0], "m:1")
    with pytest.raises(AudioError, match=r"audio '\S*audio_0.tar, bytes 1536 to 1536' is an empty file \(0 bytes\)"):
        read_clip(second.clips[0], "m:2")
    (tmp_path / "audio_0.tar").write_bytes((tmp_path / "audio_0.tar").read_bytes()[:520])
    with pytest.raises(AudioError, match=r"cannot be read \(only 8 of 17 bytes are there\); an audio file is needed\."):
        read_clip(first.clips[0])
