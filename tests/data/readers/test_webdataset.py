"""WebDataset shards: any sample by its place, as its own library writes them."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.data.readers.reading import OpenKind, read_all, say
from tests.data.rows import write_tone
from voicetextblender.chat.clips import read_clip
from voicetextblender.chat.render import Renderer
from voicetextblender.data.loader import DataConfig, build_loader
from voicetextblender.data.measure import Geometry
from voicetextblender.data.readers.config import SourceConfig
from voicetextblender.data.sources import open_source
from voicetextblender.errors import DataError

Samples = list[dict[str, Any]]


@pytest.fixture
def tone(tmp_path: Path) -> bytes:
    write_tone(tmp_path / "tone.flac", 0.5)
    return (tmp_path / "tone.flac").read_bytes()


def write_shard(path: Path, samples: Samples, format: int = tarfile.GNU_FORMAT) -> None:
    """As webdataset's TarWriter does: one member for each key but `__key__`, JSON for objects, in one user's name."""
    with tarfile.open(path, "w", format=format) as tar:
        for sample in samples:
            for extension, value in sample.items():
                if extension == "__key__":
                    continue
                content = value if isinstance(value, bytes) else value.encode() if isinstance(value, str) else None
                content = json.dumps(value).encode() if content is None else content
                member = tarfile.TarInfo(f"{sample['__key__']}.{extension}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def make_samples(tone: bytes) -> Samples:
    return [
        {"__key__": "a/1", "flac": tone, "txt": "Hello there.\n", "json": {"lang": "en", "speaker": "p1"}},
        {"__key__": "a/2", "json": {"lang": "de", "audio_filepath": "/old/2.wav", "text": "Guten Tag."}, "flac": tone},
        {"__key__": "b." + "long/" * 30 + "3", "question": "Who?", "wav.flac": tone, "answer": "Ann."},
        {"__key__": "4", "json": {"messages": [{"role": "user", "content": "<audio> and <audio>"}]}, "0.flac": tone}
        | {"1.flac": tone, "npy": b"\xff\x00"},
        {"__key__": "5", "txt": "", "flac": tone},
    ]


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_samples_become_conversations(open_kind: OpenKind, tmp_path: Path, tone: bytes, format: int) -> None:
    write_shard(tmp_path / "s-000.tar", make_samples(tone)[:2], format)
    write_shard(tmp_path / "s-001.tar", make_samples(tone)[2:4], format)
    prompts = {"package": False, "transcription": ["Write: {clip}"], "answering": ["{clip} {question}"]}
    source = open_kind("webdataset", "s-{000..001}.tar", prompts=prompts)
    first, second, third, fourth = read_all(source)
    assert say(first) == ["user: Write: [1.flac]", "assistant: Hello there."]
    assert (first.id, first.language, first.metadata) == ("a/1", "en", {"speaker": "p1"})
    assert say(second) == ["user: Write: [2.flac]", "assistant: Guten Tag."]
    assert say(third) == ["user: [3.wav.flac] Who?", "assistant: Ann."]
    assert say(fourth) == ["user: [4.0.flac] and [4.1.flac]"]
    assert [len(read_clip(clip)) for one in (first, second, third, fourth) for clip in one.clips] == [8000] * 5
    assert [source.where(row.line, row.file)[-18:] for row in source.scan()][2] == "s-001.tar sample 1"


def test_shards_behind_urls(open_kind: OpenKind, tone: bytes) -> None:
    fsspec = pytest.importorskip("fsspec")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in (("1.txt", b"One."), ("1.flac", tone), ("2.flac", tone), ("2.txt", b"Two.")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    fsspec.filesystem("memory").pipe("/wds/s0.tar", buffer.getvalue())
    source = open_source(SourceConfig(name="far", kind="webdataset", path="memory://wds/s*.tar", language="en"))
    assert [one.turns[1].text for one in read_all(source)] == ["One.", "Two."]


def test_what_is_no_shard_is_told(open_kind: OpenKind, tmp_path: Path, tone: bytes) -> None:
    (tmp_path / "no.tar").write_bytes(b"x" * 5000)
    with pytest.raises(DataError, match=r"no\.tar: cannot be read \(.*; an uncompressed tar is needed, so that its"):
        list(open_kind("webdataset", "no.tar").scan())
    write_shard(tmp_path / "s.tar", [{"__key__": "1", "json": "[]", "flac": tone}, *make_samples(tone)[4:]])
    source = open_kind("webdataset", "s.tar", language="en")
    bad, empty = source.scan()
    with pytest.raises(
        DataError, match=r"s\.tar sample 1: its \.json is \[\]; an object with named values is expected"
    ):
        source.parse(bad)
    with pytest.raises(DataError, match=r"s\.tar sample 2: the row has no text; "):
        source.parse(empty)
    (tmp_path / "s.tar").write_bytes((tmp_path / "s.tar").read_bytes()[:600])
    with pytest.raises(DataError, match=r"s\.tar sample 2: cannot be read \(only .* bytes are there\); the tar as it"):
        source.read(empty.line, empty.offset, len(empty.content), 0)


def test_training_reads_shards_in_any_order(
    tmp_path: Path, tone: bytes, renderer: Renderer, geometry: Geometry
) -> None:
    samples: Samples = [{"__key__": f"{n:03}", "txt": f"Number {n}.", "flac": tone} for n in range(12)]
    write_shard(tmp_path / "s.tar", samples)
    config = DataConfig.model_validate(
        {
            "sources": [{"name": "w", "kind": "webdataset", "path": str(tmp_path / "s.tar"), "language": "en"}],
            "conversations_per_step": 6,
            "cache_dir": str(tmp_path / "cache"),
        }
    )
    loader = build_loader(config, renderer, geometry, seed=0)
    assert loader.indexes[0].hours * 3600 == pytest.approx(6.0)
    ids = [loader.indexes[0].read(draw.row).id for step in range(2) for draw in loader.plan.draws(step)]
    assert sorted(ids) == [f"{n:03}" for n in range(12)] != ids
    assert sum(len(batch.clip_keys) for batch in loader.load(0)) == 6


def test_shards_of_the_library_itself(open_kind: OpenKind, tmp_path: Path, tone: bytes) -> None:
    webdataset = pytest.importorskip("webdataset")
    with webdataset.ShardWriter(f"{tmp_path}/lib-%02d.tar", maxcount=2, verbose=0) as writer:
        for n in range(5):
            writer.write({"__key__": f"x/{n:04}", "flac": tone, "json": {"text": f"Number {n}.", "lang": "en"}})
    conversations = read_all(open_kind("webdataset", "lib-{00..02}.tar"))
    assert [(one.id, one.turns[1].text) for one in conversations] == [(f"x/{n:04}", f"Number {n}.") for n in range(5)]
    assert all(len(read_clip(clip)) == 8000 for one in conversations for clip in one.clips)
