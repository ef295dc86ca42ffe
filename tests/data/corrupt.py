"""Damage of every kind, done to audio files and to lines of manifests; the same for the same seed."""

from __future__ import annotations

import io
import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "float.wav": ("WAV", "FLOAT"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}
Damaged = tuple[str, bytes]
"""Suffix and content of a file."""


def encode(format_name: str, samples: np.ndarray, sampling_rate: int = 16_000) -> bytes:
    container, encoding = FORMATS[format_name]
    file = io.BytesIO()
    soundfile.write(file, samples, sampling_rate, format=container, subtype=encoding)
    return file.getvalue()


def damage_files(folder: Path, num_files: int, seed: int = 0) -> list[tuple[str, Path]]:
    """Writes the files; gives the kind of damage and the path of each."""
    chance = random.Random(seed)
    noise = np.random.default_rng(seed).normal(0, 0.1, 8_000).astype(np.float32)
    whole = {name: encode(name, noise) for name in FORMATS}
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for number in range(num_files):
        kind = list(_DAMAGES)[number % len(_DAMAGES)]
        suffix, content = _DAMAGES[kind](whole, chance)
        path = folder / f"{number}.{suffix}"
        path.write_bytes(content)
        made.append((kind, path))
    return made


def _truncate(whole: dict[str, bytes], chance: random.Random) -> Damaged:
    name = chance.choice(list(whole))
    return name, whole[name][: chance.randrange(1, len(whole[name]))]


def _flip(whole: dict[str, bytes], chance: random.Random) -> Damaged:
    name = chance.choice(list(whole))
    content = bytearray(whole[name])
    for _ in range(chance.choice((1, 4, 64))):
        # The header is what misleads a decoder most.
        place = chance.randrange(100 if chance.random() < 0.5 else len(content))
        content[place] ^= 1 << chance.randrange(8)
    return name, bytes(content)


def _misname(whole: dict[str, bytes], chance: random.Random) -> Damaged:
    suffix = chance.choice(list(whole))
    others = [content for name, content in whole.items() if name != suffix]
    texts = [b"no audio at all\n" * 50, b"\x89PNG\r\n\x1a\n" + bytes(200), b'{"id": 1}', chance.randbytes(500)]
    return suffix, chance.choice(others + texts)


def _empty(whole: dict[str, bytes], chance: random.Random) -> Damaged:
    name = chance.choice(list(whole))
    return name, b"" if chance.random() < 0.5 else encode(name, np.zeros(0, np.float32))


def _promise(whole: dict[str, bytes], chance: random.Random) -> Damaged:
    """A header that promises more than anybody has: samples, channels, a sampling rate, bytes."""
    if chance.random() < 0.5:
        content = bytearray(whole["flac"])  # the last 36 bits before the checksum in STREAMINFO: number of samples
        content[21:26] = bytes([content[21] | 0x0F, 255, 255, 255, chance.randrange(256)])
        return "flac", bytes(content)
    content = bytearray(whole[chance.choice(("wav", "float.wav"))])
    place, form, value = chance.choice(
        [
            (4, "<I", 0xFFFFFFFF),
            (16, "<I", 0x7FFFFFFF),
            (22, "<H", 65_535),
            (22, "<H", 1_024),
            (24, "<I", 0x7FFFFFFF),
            (24, "<I", 1),
            (28, "<I", 0xFFFFFFFF),
            (32, "<H", 65_535),
            (content.find(b"data") + 4, "<I", 0xFFFFFFF0),
        ]
    )
    struct.pack_into(form, content, place, value)
    return "wav", bytes(content)


def _poison(whole: dict[str, bytes], chance: random.Random) -> Damaged:
    samples = np.full(4_000, 0.1, np.float32)
    samples[chance.randrange(4_000) :: chance.randrange(50, 4_000)] = chance.choice((np.nan, np.inf, -np.inf))
    return "wav", encode("float.wav", samples)


_DAMAGES: dict[str, Callable[[dict[str, bytes], random.Random], Damaged]] = {
    "truncated": _truncate,
    "bit-flipped": _flip,
    "wrong extension": _misname,
    "zero length": _empty,
    "enormous header": _promise,
    "not finite": _poison,
}


def damage_line(row: dict[str, Any], chance: random.Random) -> bytes:
    """A line of a manifest that is hardly that of `row` any more; without a line break."""
    line = bytearray(json.dumps(row).encode())
    way = chance.randrange(8)
    if way == 0:
        return bytes(line[: chance.randrange(1, len(line))])
    if way == 1:
        for _ in range(chance.choice((1, 3, 20))):
            line[chance.randrange(len(line))] ^= 1 << chance.randrange(8)
        return bytes(line).replace(b"\n", b"?")
    if way == 2:
        start = chance.randrange(len(line))
        return bytes(line[:start] + chance.randbytes(chance.randrange(1, 40)) + line[start:]).replace(b"\n", b"?")
    if way == 3:
        return chance.choice(
            (b"[" * 100_000, b'{"a":' * 50_000, b"9" * 10_000, b"-", b"null", b'"', b"\x00" * 30, b"[]")
        )
    return json.dumps(_replace_one(row, chance)).encode()


STRANGE: tuple[Any, ...] = (
    None, True, -1, 0, 1e300, 10**30, float("nan"), float("inf"), "", "\ud800", "\x00", "x" * 20_000, [], {}, [[[]]],
    [None], {"type": "audio"}, {"role": "user"}, "nowhere.wav", "../..", "http://[", "file:///dev/zero", "s3://", -0.5,
)  # fmt: skip


def _replace_one(value: Any, chance: random.Random) -> Any:
    """The same with something strange at one random place."""
    if isinstance(value, dict) and value and chance.random() < 0.8:
        key = chance.choice(list(value))
        return value | {key: _replace_one(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.8:
        place = chance.randrange(len(value))
        return [*value[:place], _replace_one(value[place], chance), *value[place + 1 :]]
    return chance.choice(STRANGE)
