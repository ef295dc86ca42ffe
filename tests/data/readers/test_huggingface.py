"""Arrow and Parquet tables in the shapes of the datasets library."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.readers.reading import OpenKind, Upload, read_all, say
from tests.data.rows import write_tone
from voicetextblender.audio.waveform import read_waveform
from voicetextblender.chat.clips import count_samples, read_clip
from voicetextblender.chat.render import Renderer
from voicetextblender.data.loader import DataConfig, build_loader
from voicetextblender.data.measure import Geometry
from voicetextblender.errors import DataError


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, Any]]:
    """Seven clips with their text; the audio column as the datasets library keeps it."""
    rows = []
    for number in range(7):
        path = tmp_path / "clips" / f"{number}.flac"
        write_tone(path, 0.3 + 0.1 * number, 8_000 if number % 2 else 16_000)
        audio = {"bytes": path.read_bytes(), "path": path.name} if number < 5 else {"bytes": None, "path": str(path)}
        rows.append({"id": number, "audio": audio, "text": f"clip {number}", "locale": "en"})
    return rows


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=2)


def write_arrow(path: Path, rows: list[dict[str, Any]], is_stream: bool = True) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.Table.from_pylist(rows)
    make = pyarrow.ipc.new_stream if is_stream else pyarrow.ipc.new_file
    with make(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


@pytest.mark.parametrize("form", ["parquet", "stream", "file"])
def test_clips_as_bytes_and_as_paths(
    open_kind: OpenKind, tmp_path: Path, rows: list[dict[str, Any]], form: str
) -> None:
    for shard, part in enumerate((rows[:3], rows[3:])):
        path = tmp_path / "set" / f"train-{shard:05d}-of-00002"
        if form == "parquet":
            write_parquet(path.with_suffix(".parquet"), part)
        else:
            write_arrow(path.with_suffix(".arrow"), part, form == "stream")
    source = open_kind("huggingface", "set")
    conversations = read_all(source)
    assert [one.id for one in conversations] == [str(number) for number in range(7)]
    assert {(one.task, one.language) for one in conversations} == {("transcription", "en")}
    for number, one in enumerate(conversations):
        waveform = read_clip(one.clips[0])
        np.testing.assert_array_equal(waveform, read_waveform(tmp_path / "clips" / f"{number}.flac"))
        assert count_samples(one.clips[0]) == len(waveform)
    assert source.where(2, 1).endswith(
        "train-00001-of-00002." + ("parquet" if form == "parquet" else "arrow") + " row 2"
    )


def test_save_to_disk(open_kind: OpenKind, tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    write_arrow(tmp_path / "set" / "data-00000-of-00001.arrow", rows[:2])
    write_arrow(tmp_path / "set" / "cache-1234.arrow", rows)
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_split": "train"}
    (tmp_path / "set" / "state.json").write_text(json.dumps(state))
    assert len(read_all(open_kind("huggingface", "set"))) == 2


def test_conversations(open_kind: OpenKind, tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    messages = [{"role": "user", "content": "<audio> Who?"}, {"role": "assistant", "content": "Ann."}]
    write_parquet(tmp_path / "a.parquet", [{"messages": messages, "audios": [rows[0]["audio"]]}])
    (one,) = read_all(open_kind("huggingface", "*.parquet"))
    assert say(one) == ["user: [0.flac] Who?", "assistant: Ann."]
    np.testing.assert_array_equal(read_clip(one.clips[0]), read_waveform(tmp_path / "clips" / "0.flac"))


def test_workers_read_what_the_process_reads(
    tmp_path: Path, rows: list[dict[str, Any]], renderer: Renderer, geometry: Geometry
) -> None:
    write_parquet(tmp_path / "a.parquet", rows)
    source = {"name": "hub", "kind": "huggingface", "path": str(tmp_path / "a.parquet")}
    values = {"sources": [source], "conversations_per_step": 3, "cache_dir": str(tmp_path / "cache")}
    read = []
    for num_workers in (0, 2):
        config = DataConfig.model_validate({**values, "num_workers": num_workers})
        loader = build_loader(config, renderer, geometry, seed=2)
        read.append([batch.token_ids.tolist() for loaded in loader.steps(0, 5) for batch in loaded.batches])
    assert read[0] == read[1]


def test_what_the_datasets_library_writes(open_kind: OpenKind, shared_data: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="compares with the datasets library itself")
    manifest = shared_data / "librispeech_excerpt_en" / "manifest.jsonl"
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    files = [str(manifest.parent / line["audio"]) for line in lines]
    clips = [{"bytes": Path(file).read_bytes(), "path": Path(file).name} for file in files[:2]]
    clips += [{"bytes": None, "path": file} for file in files[2:]]
    dataset = datasets.Dataset.from_dict({"audio": clips, "text": [line["text"] for line in lines]})
    dataset = dataset.cast_column("audio", datasets.Audio(decode=False))
    dataset.select([3, 1, 0]).save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"train": dataset}).save_to_disk(tmp_path / "dict")
    dataset.to_parquet(tmp_path / "set.parquet")
    for path, order in (("saved", [3, 1, 0]), ("dict/train", range(4)), ("set.parquet", range(4))):
        read = read_all(open_kind("huggingface", path, language="en"))
        assert [one.turns[1].text for one in read] == [lines[number]["text"] for number in order]
        for one, number in zip(read, order, strict=True):
            np.testing.assert_array_equal(read_clip(one.clips[0]), read_waveform(files[number]))


def test_what_is_refused(
    open_kind: OpenKind, tmp_path: Path, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"source 'train': no table at '\S*gone'; a folder of save_to_disk, or files"):
        open_kind("huggingface", "gone")
    write_parquet(tmp_path / "data" / "train-00000-of-00001.parquet", rows)
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", rows)
    with pytest.raises(
        DataError, match=r"'\S*data' holds the splits test, train; a source is one split\. Name it, such"
    ):
        open_kind("huggingface", "data")
    assert len(read_all(open_kind("huggingface", "data/train-*"))) == 7
    write_arrow(tmp_path / "dict" / "train" / "data-00000-of-00001.arrow", rows)
    (tmp_path / "dict" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    with pytest.raises(DataError, match=r"'\S*dict' holds the splits train; a source is one split\."):
        open_kind("huggingface", "dict")
    (tmp_path / "bad.parquet").write_bytes(b"x" * 100)
    with pytest.raises(DataError, match=r"bad.parquet: cannot be read \(.*\); an Arrow or Parquet file is needed\."):
        list(open_kind("huggingface", "bad.parquet").scan())
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"pyarrow is not installed; .*pip install 'voicetextblender\[huggingface\]'"):
        open_kind("huggingface", "data/train-*")


def test_remote_tables_are_read_as_those_here(
    open_kind: OpenKind, tmp_path: Path, rows: list[dict[str, Any]], upload: Upload
) -> None:
    write_arrow(tmp_path / "saved" / "data-00000-of-00001.arrow", rows[:5])
    write_arrow(tmp_path / "saved" / "cache-1.arrow", rows[5:])
    (tmp_path / "saved" / "state.json").write_text('{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}')
    write_parquet(tmp_path / "hub" / "train-00000-of-00001.parquet", rows[:5])
    (tmp_path / "dict").mkdir()
    (tmp_path / "dict" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    root = upload(tmp_path)
    for path in ("saved", "saved/", "hub", "hub/train-*.parquet", "hub/train-00000-of-00001.parquet"):
        here, far = (open_kind("huggingface", f"{base}{path}") for base in ("", f"{root}/"))
        assert list(map(say, read_all(far))) == list(map(say, read_all(here)))
        assert far.where(2).startswith("memory://") and far.where(2).endswith(" row 2")
        assert [len(read_clip(one.clips[0])) for one in read_all(far)] == [4800, 6400, 8000, 9600, 11200]
    with pytest.raises(DataError, match=r"dict' holds the splits test, train; .* such as 'memory://.*/dict/test'"):
        open_kind("huggingface", f"{root}/dict")
    with pytest.raises(DataError, match=r"no table at 'memory://.*/nowhere'"):
        open_kind("huggingface", f"{root}/nowhere")
