"""Lhotse cuts and Shar folders: as lhotse writes them, and written by lhotse where it is installed."""

from __future__ import annotations

import gzip
import json
import re
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from tests.data.readers.reading import OpenKind, Upload, read_all, say, write_lines
from tests.data.readers.test_nemo import write_tar
from tests.data.rows import write_tone
from voicetextblender.audio.waveform import read_waveform
from voicetextblender.chat.clips import read_clip
from voicetextblender.chat.conversation import AudioPart
from voicetextblender.errors import DataError


def make_cut(source: str = "/x/a.wav", **changes: Any) -> dict[str, Any]:
    said = {
        "id": "s1",
        "recording_id": "a",
        "start": 0,
        "duration": 2.0,
        "channel": 0,
        "text": "hello",
        "language": "en",
    }
    recording = {
        "id": "a",
        "sources": [{"type": "file", "channels": [0], "source": source}],
        "sampling_rate": 16000,
        "num_samples": 32000,
        "duration": 2.0,
        "channel_ids": [0],
    }
    cut = {"id": "a", "start": 0.5, "duration": 2.0, "channel": 0, "supervisions": [said], "recording": recording}
    return {**cut, "type": "MonoCut", **changes}


PADDING = {"id": "p", "duration": 1.0, "sampling_rate": 16000, "num_samples": 16000, "type": "PaddingCut"}


def make_mix(*tracks: tuple[float, dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """`changes` go to the last track."""
    made: list[dict[str, Any]] = [{"cut": cut, "type": cut["type"], "offset": offset} for offset, cut in tracks]
    made[-1] |= changes
    return {"id": "mix", "tracks": made, "type": "MixedCut"}


def test_cuts_in_a_row(open_kind: OpenKind, tmp_path: Path) -> None:
    padded = make_mix((0.0, PADDING), (1.0, make_cut()), (3.0, PADDING))
    asked = make_cut("/x/c.wav", custom={"question": "Who?", "answer": "Ann."}, supervisions=[])
    rows = [padded, make_mix((0.0, make_cut()), (2.0, make_cut("/x/b.wav", start=0.0))), make_mix((0.0, asked))]
    write_lines(tmp_path / "cuts.jsonl", rows)
    first, second, third = read_all(open_kind("lhotse", "cuts.jsonl"))
    assert (first.id, first.clips) == ("mix", (AudioPart("/x/a.wav", 0.5, 2.0, "hello"),))
    assert second.clips == (AudioPart("/x/a.wav", 0.5, 2.0, "hello"), AudioPart("/x/b.wav", 0.0, 2.0, "hello"))
    assert second.turns[1].text == "hello hello" and say(second)[0].count("[a.wav][b.wav]") == 1
    assert say(third) == ["user: [c.wav] Who?", "assistant: Ann."]


def test_cuts(open_kind: OpenKind, tmp_path: Path) -> None:
    two = [
        make_cut()["supervisions"][0] | {"start": start, "text": text} for start, text in ((1.0, "you"), (0, "hello"))
    ]
    two[0]["duration"] = two[1]["duration"] = 1.0
    rows = [
        make_cut(),
        make_cut(id="b", supervisions=two, custom={"target_lang": "de", "translation": "Hallo"}),
        make_cut(id="c", custom={"question": "Who?", "answer": "Ann."}, duration=0.5),
    ]
    (tmp_path / "cuts.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    first, second, third = read_all(open_kind("lhotse", "cuts.jsonl.gz"))
    assert first.clips == (AudioPart("/x/a.wav", 0.5, 2.0, "hello"),)
    assert (first.id, first.task, first.language, first.turns[1].text) == ("a", "transcription", "en", "hello")
    assert (second.task, second.turns[1].text, second.clips[0].transcript) == ("translation", "Hallo", "hello you")
    assert say(third) == ["user: [a.wav] Who?", "assistant: Ann."]


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (make_cut(type="MultiCut"), "cuts.jsonl:1: a MultiCut with a recording; a MonoCut with a recording is needed."),
        (make_cut(type="MixedCut"), "cuts.jsonl:1: 'tracks' is None; a MixedCut has a list of tracks. Export it"),
        (make_mix((0, make_cut()), (1.5, make_cut())), "cuts.jsonl:1: a track of a MixedCut begins at 1.50 s, the one"),
        (make_mix((0, make_cut()), snr=10), "cuts.jsonl:1: a MixedCut with noise or transforms; tracks as they lie in"),
        (make_mix((0, PADDING)), "cuts.jsonl:1: a MixedCut of padding alone; at least one recording is needed."),
        (make_cut(recording=None), "cuts.jsonl:1: a MonoCut with a recording; a MonoCut"),
        (make_cut(duration=1.0), "cuts.jsonl:1: a supervision goes from 0.00 s to 2.00 s of a cut of 1.00 s; all that"),
        (
            make_cut(recording=make_cut()["recording"] | {"transforms": [{"name": "Speed"}]}),
            "cuts.jsonl:1: the recording has transforms, [{'name': 'Speed'}]; recordings are read as they lie",
        ),
        (
            make_cut(recording=make_cut()["recording"] | {"channel_ids": [0, 1]}),
            "cuts.jsonl:1: the recording has the channels [0, 1], the cut is of 0; a recording has one channel.",
        ),
        (
            make_cut(recording=make_cut()["recording"] | {"sources": [{"type": "command"}]}),
            "cuts.jsonl:1: the sources are [{'type': 'command'}]; one of the type 'file' or 'url' is needed.",
        ),
    ],
)
def test_cuts_that_are_refused(open_kind: OpenKind, tmp_path: Path, cut: dict[str, Any], message: str) -> None:
    write_lines(tmp_path / "cuts.jsonl", [cut])
    with pytest.raises(DataError, match=re.escape(message)):
        read_all(open_kind("lhotse", "cuts.jsonl"))


def write_shar(tmp_path: Path) -> None:
    """Two shards of one cut each."""
    for shard in range(2):
        write_tone(tmp_path / f"{shard}.flac", 2.0, pitch_hz=100 + 100 * shard)
        recording = make_cut()["recording"] | {"sources": [{"type": "shar", "channels": [0], "source": ""}]}
        cut = make_cut(id=f"set/{shard}", start=0.0, recording=recording)
        name = f"{shard:06d}"
        (tmp_path / f"cuts.{name}.jsonl.gz").write_bytes(gzip.compress(json.dumps(cut).encode()))
        members = {f"set/{shard}.flac": (tmp_path / f"{shard}.flac").read_bytes(), f"set/{shard}.json": b"{}"}
        write_tar(tmp_path / f"recording.{name}.tar", members)


def test_shar(open_kind: OpenKind, tmp_path: Path) -> None:
    write_shar(tmp_path)
    for shard, one in enumerate(read_all(open_kind("lhotse_shar", ""))):
        np.testing.assert_array_equal(read_clip(one.clips[0]), read_waveform(tmp_path / f"{shard}.flac"))
    (tmp_path / "recording.000001.tar").unlink()
    with pytest.raises(
        DataError, match=r"has 2 files cuts\.\*\.jsonl\.gz and 1 files recording\.\*\.tar; a Shar folder"
    ):
        open_kind("lhotse_shar", "")


def test_a_remote_shar_folder(open_kind: OpenKind, tmp_path: Path, upload: Upload) -> None:
    write_shar(tmp_path)
    root = upload(tmp_path)
    for shard, one in enumerate(read_all(open_kind("lhotse_shar", f"{root}/"))):
        assert str(one.clips[0].path).startswith("memory://")
        np.testing.assert_array_equal(read_clip(one.clips[0]), read_waveform(tmp_path / f"{shard}.flac"))
    with pytest.raises(DataError, match=r"'memory://nowhere' has 0 files cuts"):
        open_kind("lhotse_shar", "memory://nowhere")


def test_a_shar_folder_of_a_local_web_server(open_kind: OpenKind, tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    write_shar(tmp_path)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            source = open_kind("lhotse_shar", f"http://127.0.0.1:{server.server_port}")
            assert [len(read_clip(one.clips[0])) for one in read_all(source)] == [32_000, 32_000]
        finally:
            server.shutdown()
            thread.join()


def test_what_lhotse_writes(open_kind: OpenKind, shared_data: Path, tmp_path: Path) -> None:
    lhotse = pytest.importorskip("lhotse", reason="compares with lhotse itself")
    cuts = []
    manifest = shared_data / "librispeech_excerpt_en" / "manifest.jsonl"
    for row in map(json.loads, manifest.read_text().splitlines()):
        cut = lhotse.Recording.from_file(manifest.parent / row["audio"]).to_cut()
        said = lhotse.SupervisionSegment(cut.id, cut.recording_id, 0.0, cut.duration, text=row["text"], language="en")
        cut.supervisions = [said]
        cuts += [cut, cut.truncate(offset=0.5, duration=1.0).drop_supervisions().with_id(f"{cut.id}-part")]
        cuts[-1].question, cuts[-1].answer = "Is it speech?", "Yes."
    cuts = lhotse.CutSet.from_cuts(cuts)
    cuts.to_file(tmp_path / "cuts.jsonl.gz")
    (tmp_path / "shar").mkdir()
    cuts.to_shar(tmp_path / "shar", fields={"recording": "flac"}, shard_size=3)
    for source in (open_kind("lhotse", "cuts.jsonl.gz"), open_kind("lhotse_shar", "shar")):
        conversations = read_all(source)
        assert [one.id for one in conversations] == list(cuts.ids)
        for one, cut in zip(conversations, cuts, strict=True):
            np.testing.assert_allclose(read_clip(one.clips[0]), cut.load_audio()[0], atol=1e-4)
            assert one.turns[1].text == (cut.supervisions[0].text if cut.supervisions else "Yes.")


def test_cuts_in_a_row_of_lhotse_itself(open_kind: OpenKind, tmp_path: Path) -> None:
    lhotse = pytest.importorskip("lhotse", reason="compares with lhotse itself")
    cuts = []
    for number in range(2):
        write_tone(tmp_path / f"{number}.wav", 1.0 + number, pitch_hz=200 + 100 * number)
        cut = lhotse.Recording.from_file(tmp_path / f"{number}.wav").to_cut()
        said = lhotse.SupervisionSegment(
            f"s{number}", cut.recording_id, 0.0, cut.duration, text=f"t{number}", speaker="p"
        )
        cut.supervisions = [said]
        cuts.append(cut)
    rows = [cuts[0].pad(3.0, direction="both"), cuts[0].append(cuts[1]), cuts[0].mix(cuts[1], snr=10)]
    lhotse.CutSet.from_cuts(rows).to_file(tmp_path / "cuts.jsonl")
    source = open_kind("lhotse", "cuts.jsonl", language="en")
    padded, appended, mixed = source.scan()
    (clip,) = source.parse(padded).clips
    np.testing.assert_allclose(read_clip(clip), rows[0].load_audio()[0][16_000:32_000], atol=1e-4)
    one = source.parse(appended)
    np.testing.assert_allclose(
        np.concatenate([read_clip(clip) for clip in one.clips]), rows[1].load_audio()[0], atol=1e-4
    )
    assert (one.turns[1].text, one.metadata) == ("t0 t1", {"speaker": "p"})
    with pytest.raises(DataError, match="a MixedCut with noise or transforms"):
        source.parse(mixed)
