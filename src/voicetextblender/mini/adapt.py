"""The base speech encoder goes on learning from recordings of people, beside clips of the world that it knows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from voicetextblender.audio.augment import SpecAugmentConfig
from voicetextblender.audio.distort import AugmentConfig, BandConfig, GainConfig, SpeedConfig
from voicetextblender.audio.features import LogMelConfig
from voicetextblender.audio.waveform import count_clip_samples
from voicetextblender.data.readers.config import SourceConfig
from voicetextblender.data.sources import open_source
from voicetextblender.errors import DataError, describe
from voicetextblender.files import derive_seed
from voicetextblender.mini.base_encoder import (
    BaseEncoderConfig,
    BaseEncoderResult,
    TranscribedClip,
    pretrain_base_encoder,
)
from voicetextblender.mini.pretrain import PretrainConfig
from voicetextblender.prepare.corpora import Drop, read_recordings

NARROW_BAND = LogMelConfig(normalise="clip", band_limit_hz=4000.0)
"""Features for recordings at 8 kHz, and for clips as short as a word."""

KEPT_SHARE = 0.15
"""Share of the world's clips that are heard beside the recordings."""


@dataclass(frozen=True)
class AdaptData:
    """What an encoder is adapted to."""

    recordings: tuple[TranscribedClip, ...]
    kept: tuple[TranscribedClip, ...]
    """Clips of manifests, of what the encoder knows already."""
    drops: tuple[Drop, ...]


def adapt_encoder(
    start: Path, data: AdaptData, out: Path, config: BaseEncoderConfig, console: Console | None = None
) -> BaseEncoderResult:
    """Train the encoder of the folder `start` on `data`, with a vocabulary of its own, and save it to `out`.

    Raises:
        ModelError, DataError, CheckpointError: as of `pretrain_base_encoder`.
    """
    return pretrain_base_encoder((*data.recordings, *data.kept), out, config, console, start)


def adaptation(steps: int, *, narrow_band: bool = False) -> BaseEncoderConfig:
    """Few people, heard often: each time at another speed, loudness and band, with stretches and bands masked."""
    return BaseEncoderConfig(
        num_flat_start_steps=300,
        features=NARROW_BAND if narrow_band else LogMelConfig(),
        augment=AugmentConfig(
            speed=SpeedConfig(factors=(0.85, 1.18)),
            gain=GainConfig(probability=1.0, gain_db=(-24.0, 6.0)),
            band=BandConfig(probability=0.3),
        ),
        spec_augment=SpecAugmentConfig(max_frequency_width=12, num_time_masks=2),
        pretrain=PretrainConfig(steps=steps, learning_rate=1e-3, warmup_steps=200, checkpoint_every=250),
    )


def collect_clips(sources: Sequence[Path], kept: Sequence[Path], seed: int = 0) -> AdaptData:
    """The training recordings of corpora and the clips of manifests, and a share of the clips of other manifests.

    Args:
        sources: folders of corpora, and files of conversations.
        kept: files of conversations.

    Raises:
        DataError: a manifest is malformed or missing, or there is no recording.
    """
    recordings: list[TranscribedClip] = []
    drops: list[Drop] = []
    for source in sources:
        if source.suffix == ".jsonl":
            recordings += clips_of([source])
            continue
        found, lost = read_recordings(source)
        recordings += [TranscribedClip(one.path, one.num_samples, one.text) for one in found if one.split == "train"]
        drops += lost
    if not recordings:
        where = ", ".join(map(str, sources))
        raise DataError(describe(where, "there is no training recording", "one at least", "Give other corpora"))
    others = [clip for clip in clips_of(kept) if derive_seed("kept", seed, str(clip.path)) % 100 < 100 * KEPT_SHARE]
    return AdaptData(tuple(recordings), tuple(others), tuple(drops))


def clips_of(manifests: Sequence[Path]) -> Iterator[TranscribedClip]:
    """The whole clips with transcripts in manifests of conversations, each file once."""
    seen: set[str] = set()
    for manifest in manifests:
        source = open_source(SourceConfig(name=manifest.stem, path=str(manifest)))
        for line in source.scan():
            for clip in source.parse(line, 0).clips:
                if clip.path and clip.transcript and not clip.start_s and clip.path not in seen:
                    seen.add(clip.path)
                    num_samples = count_clip_samples(clip.path, where=source.where(line.line, line.file))
                    yield TranscribedClip(Path(clip.path), num_samples, clip.transcript)
