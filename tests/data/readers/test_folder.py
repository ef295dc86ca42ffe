"""Folders in the layouts of LibriSpeech, LJSpeech, the datasets library, and pairs of files."""

from __future__ import annotations

import json
import shutil
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.data.readers.reading import OpenKind, read_all
from tests.data.rows import write_tone
from voicetextblender.chat.clips import count_samples, read_clip
from voicetextblender.data.readers.config import SourceConfig
from voicetextblender.data.sources import open_source
from voicetextblender.errors import DataError


def test_librispeech(open_kind: OpenKind, tmp_path: Path) -> None:
    for chapter in ("84/121123", "84/121550"):
        folder = tmp_path / "dev-clean" / chapter
        folder.mkdir(parents=True)
        name = chapter.replace("/", "-")
        (folder / f"{name}.trans.txt").write_text(f"{name}-0000 GO DO YOU HEAR\n{name}-0001 BUT NO\n")
        for number in range(2):
            write_tone(folder / f"{name}-000{number}.flac", 0.5)
    read = read_all(open_kind("folder", "dev-clean", language="en"))
    assert [one.id for one in read] == ["84-121123-0000", "84-121123-0001", "84-121550-0000", "84-121550-0001"]
    assert read[3].turns[1].text == "BUT NO" and read[3].language == "en"
    assert Path(read[3].clips[0].path or "") == tmp_path / "dev-clean/84/121550/84-121550-0001.flac"


def test_ljspeech(open_kind: OpenKind, tmp_path: Path) -> None:
    (tmp_path / "wavs").mkdir()
    write_tone(tmp_path / "wavs" / "LJ001-0001.wav", 0.5)
    (tmp_path / "metadata.csv").write_text('LJ001-0001|Dr. "No", 7|Doctor "No", seven\nLJ001-0002|gone|gone\n')
    source = open_kind("folder", "")
    rows = list(source.scan())
    assert source.parse(rows[0]).turns[1].text == 'Doctor "No", seven'
    with pytest.raises(
        DataError, match=r"metadata.csv:2: no recording 'LJ001-0002' in '\S*wavs'; a file is looked for"
    ):
        source.parse(rows[1])
    (tmp_path / "metadata.csv").write_text("LJ001-0001|Raw only|\n")
    assert read_all(open_kind("folder", ""))[0].turns[1].text == "Raw only"


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_the_layout_of_the_datasets_library(open_kind: OpenKind, tmp_path: Path, suffix: str) -> None:
    row = {"file_name": "clips/a.wav", "transcription": "Hello."}
    text = json.dumps(row) + "\n" if suffix == "jsonl" else "file_name,transcription\nclips/a.wav,Hello.\n"
    (tmp_path / f"metadata.{suffix}").write_text(text)
    (one,) = read_all(open_kind("folder", ""))
    assert one.turns[1].text == "Hello." and one.clips[0].path == f"{tmp_path}/clips/a.wav"


def test_pairs(open_kind: OpenKind, tmp_path: Path) -> None:
    for name in ("b/two", "one"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_tone(tmp_path / f"{name}.wav", 0.5)
        (tmp_path / f"{name}.txt").write_text(f"Text of\n{name}.\n")
    source = open_kind("folder", "")
    assert [one.turns[1].text for one in read_all(source)] == ["Text of\nb/two.", "Text of\none."]
    write_tone(tmp_path / "three.wav", 0.5)
    with pytest.raises(DataError, match=r"three.txt: the file does not exist; each recording has its text beside it\."):
        read_all(open_kind("folder", ""))


def test_folders_that_are_refused(open_kind: OpenKind, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"source 'train': no transcripts in '\S*'; transcripts are \*\.trans\.txt, meta"
    ):
        open_kind("folder", "")
    with pytest.raises(DataError, match=r"source 'train': '\S*gone' does not exist; kind 'folder' reads a folder\."):
        open_kind("folder", "gone")


def test_recordings_of_librispeech_and_ljspeech(open_kind: OpenKind, shared_data: Path, tmp_path: Path) -> None:
    excerpt = shared_data / "librispeech_excerpt_en"
    for line in (excerpt / "trans.txt").read_text().splitlines():
        name = line.partition(" ")[0]
        folder = tmp_path / "libri" / name.rpartition("-")[0].replace("-", "/")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(excerpt / "audio" / f"{name}.flac", folder)
        with (folder / f"{name.rpartition('-')[0]}.trans.txt").open("a") as file:
            file.write(line + "\n")
    lj = shared_data / "ljspeech_part1_en"
    (tmp_path / "lj" / "wavs").mkdir(parents=True)
    with (tmp_path / "lj" / "metadata.csv").open("w") as file:
        for line in (lj / "metadata_full_13100.csv").read_text("utf-8").splitlines()[:3]:
            (tmp_path / "lj" / "wavs" / f"{line[:10]}.opus").symlink_to(lj / "audio" / f"{line[:10]}.opus")
            file.write(line + "\n")
    for name, rows in (("libri", 4), ("lj", 3)):
        read = read_all(open_kind("folder", name, language="en"))
        assert len(read) == rows
        for one in read:
            waveform = read_clip(one.clips[0])
            assert len(waveform) == count_samples(one.clips[0]) > 16_000 and abs(waveform).max() > 0.05
            assert 5 < len(one.turns[1].text) / (len(waveform) / 16_000) < 30  # letters a second


def make_layouts(folder: Path) -> None:
    """Each layout in a folder of its own, two rows in each."""
    for layout, names in {
        "libri": ("84/84-1-0000", "84/84-1-0001"),
        "lj/wavs": ("a", "b"),
        "pairs": ("a", "x/b"),
    }.items():
        for name in names:
            (folder / layout / name).parent.mkdir(parents=True, exist_ok=True)
            write_tone(folder / layout / f"{name}.flac", 0.5)
    (folder / "libri/84/84-1.trans.txt").write_text("84-1-0000 ONE\n84-1-0001 TWO\n")
    (folder / "lj/metadata.csv").write_text("a|1|ONE\nb|2|TWO\n")
    (folder / "pairs/a.txt").write_text("ONE")
    (folder / "pairs/x/b.txt").write_text("TWO")
    (folder / "audiofolder").mkdir()
    shutil.copytree(folder / "pairs", folder / "audiofolder/clips")
    (folder / "audiofolder/metadata.csv").write_text("file_name,text\nclips/a.flac,ONE\nclips/x/b.flac,TWO\n")


@pytest.mark.parametrize("layout", ["libri", "lj", "pairs", "audiofolder"])
def test_folders_behind_urls_are_read_as_those_here(tmp_path: Path, layout: str) -> None:
    fsspec = pytest.importorskip("fsspec")
    make_layouts(tmp_path / "here")
    far = fsspec.filesystem("memory")
    root = f"memory://{tmp_path.name}-{layout}"
    for path in (tmp_path / "here" / layout).rglob("*"):
        if path.is_file():
            far.pipe(f"{root}/{path.relative_to(tmp_path / 'here' / layout)}", path.read_bytes())
    read = {}
    for name, where in (("here", str(tmp_path / "here" / layout)), ("far", root)):
        source = open_source(SourceConfig(name=name, kind="folder", path=where, language="en"), tmp_path / "cache")
        read[name] = [(one.id.rpartition("/")[2], one.turns[1].text, one.metadata) for one in read_all(source)]
        clips = [clip for row in source.scan() for clip in source.parse(row).clips]
        assert [count_samples(clip) for clip in clips] == [8000, 8000]
        assert all(str(clip.path).startswith(where) for clip in clips)
    assert read["far"] == read["here"] and [text for _, text, _ in read["far"]] == ["ONE", "TWO"]


def test_a_folder_of_a_local_web_server(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    make_layouts(tmp_path / "here")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "here/libri"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            source = open_source(SourceConfig(name="web", kind="folder", path=url, language="en"), tmp_path / "cache")
            assert [one.turns[1].text for one in read_all(source)] == ["ONE", "TWO"]
        finally:
            server.shutdown()
            thread.join()


def test_a_remote_folder_that_is_not_there(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    with pytest.raises(DataError, match=r"source 'x': 'memory://nowhere' does not exist; kind 'folder'"):
        open_source(SourceConfig(name="x", kind="folder", path="memory://nowhere/"), tmp_path)
