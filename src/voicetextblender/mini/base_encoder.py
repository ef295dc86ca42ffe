"""The base speech encoder of the embedded world: a FastConformer pretrained with CTC on the transcripts of clips."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from pydantic import Field
from rich.console import Console
from tokenizers import Tokenizer
from tokenizers.decoders import Metaspace as MetaspaceDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Metaspace, Punctuation
from tokenizers.pre_tokenizers import Sequence as PreTokenizers
from tokenizers.trainers import BpeTrainer
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoTokenizer, ParakeetCTCConfig, ParakeetEncoderConfig, ParakeetForCTC, ParakeetTokenizer

from voicetextblender.audio.augment import SpecAugmentConfig, spec_augment
from voicetextblender.audio.distort import AugmentConfig, Distorter, change_speed, draw_speed, num_samples_at_speed
from voicetextblender.audio.features import LogMel, LogMelConfig
from voicetextblender.audio.front_end import extract_features
from voicetextblender.audio.lengths import num_audio_tokens, num_encoder_frames
from voicetextblender.audio.waveform import read_waveform
from voicetextblender.config import StrictConfig
from voicetextblender.errors import DataError, ModelError, describe
from voicetextblender.files import derive_seed
from voicetextblender.mini.pretrain import PretrainConfig, fit, write_losses
from voicetextblender.model.encoders.conformer import FastConformerTower
from voicetextblender.model.encoders.load import load_whole

BLANK, UNKNOWN = "<blank>", "<unk>"
IGNORED = -100
"""Target of a frame that has none."""
ALPHABET = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZäöüÄÖÜß0123456789.,:;?!'\"-"
"""Characters that can be spelled even if no training transcript has them."""


class BaseEncoderConfig(StrictConfig):
    """Size and training of the base speech encoder; the defaults fit one CPU core and seven minutes.

    Args:
        conv_channels: of the subsampling front end, which sees 8 times as many frames as the layers.
        num_flat_start_steps: over which the loss passes from evenly spread labels to CTC.
        num_calibration_steps: batches whose mean statistics replace the running ones of batch normalisation at the end.
        features: kept in the encoder's configuration, where they are not those of all FastConformers.
        augment, spec_augment: how waveforms and features are changed, another way in each epoch.
    """

    hidden_size: int = 256
    num_layers: int = 4
    num_heads: int = 4
    intermediate_size: int = 512
    conv_channels: int = 32
    vocab_size: int = Field(default=1024, gt=len(ALPHABET) + 2)
    dropout: float = 0.0
    clips_per_step: int = 8
    num_flat_start_steps: int = 400
    num_calibration_steps: int = 40
    features: LogMelConfig = LogMelConfig()
    augment: AugmentConfig | None = None
    spec_augment: SpecAugmentConfig | None = None
    pretrain: PretrainConfig = PretrainConfig(
        steps=2000, learning_rate=1.5e-3, warmup_steps=100, weight_decay=0.01, checkpoint_every=250
    )


@dataclass(frozen=True)
class TranscribedClip:
    """One training clip: an audio file at 16 kHz, its length, and what is said, cased and punctuated."""

    path: Path
    num_samples: int
    text: str


@dataclass(frozen=True)
class BaseEncoderResult:
    """What became of a pretraining: the loss of every step, and clips too short for their transcript (left out)."""

    losses: list[float]
    num_dropped: int


def pretrain_base_encoder(
    clips: Sequence[TranscribedClip],
    out: Path,
    config: BaseEncoderConfig | None = None,
    console: Console | None = None,
    start: Path | None = None,
) -> BaseEncoderResult:
    """Train tokenizer and encoder on `clips` and save both to the folder `out`.

    An interrupted call continues when it is made again. The file `training.pt` in `out` is there until it is done.

    Args:
        start: a finished folder of this kind whose weights are the start, instead of random ones.

    Raises:
        DataError: no clip is long enough for its transcript.
        CheckpointError: `out` holds an unfinished training of another configuration.
        ModelError: `start` holds an encoder of another size, or none.
    """
    config = config or BaseEncoderConfig()
    tokenizer = train_ctc_tokenizer([clip.text for clip in clips], config.vocab_size)
    data = ClipBatches(clips, tokenizer, config, out)
    torch.manual_seed(derive_seed("base encoder", config.pretrain.seed))
    model = build_base_encoder(config, tokenizer)
    if start is not None:
        copy_base_encoder(start, model, tokenizer)

    def step_loss(step: int) -> Tensor:
        return encoder_loss(model, data, step)

    checkpoint = out / "training.pt"
    spoken = derive_seed(*(f"{clip.num_samples} {clip.text}" for clip in clips))
    losses = fit(
        model,
        step_loss,
        config.pretrain,
        checkpoint=checkpoint,
        label="speech encoder",
        data_key=f"{config.model_dump_json(exclude={'pretrain'})} {spoken} {start or ''}",
        console=console,
    )
    calibrate_batch_norm(model, data, config.num_calibration_steps)
    _save(model, tokenizer, out, losses)
    checkpoint.unlink()
    return BaseEncoderResult(losses, data.num_dropped)


def encoder_loss(model: ParakeetForCTC, data: ClipBatches, step: int) -> Tensor:
    """CTC loss of the clips of a step, at first mixed with cross-entropy against evenly spread labels."""
    features, inside, labels = data.batch(step)
    output = model(input_features=features, attention_mask=inside, labels=labels)
    loss: Tensor = output.loss
    num_flat_start_steps = data.config.num_flat_start_steps
    if step < num_flat_start_steps:
        targets = spread_evenly(labels, data.piece_lengths[labels], num_encoder_frames(inside.sum(1)))
        logits = output.logits.flatten(0, 1)
        even_loss = torch.nn.functional.cross_entropy(logits, targets.flatten(), ignore_index=IGNORED)
        loss = torch.lerp(even_loss, loss, step / num_flat_start_steps)
    return loss


def _save(model: ParakeetForCTC, tokenizer: ParakeetTokenizer, out: Path, losses: Sequence[float]) -> None:
    """Write the folder so that `config.json`, by which it is known to be finished, comes last."""
    write_losses(out / "log.jsonl", losses)
    unfinished = out / "unfinished"
    model.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    for path in sorted(unfinished.iterdir(), key=lambda path: path.name == "config.json"):
        path.replace(out / path.name)
    unfinished.rmdir()


def spread_evenly(
    labels: Int[Tensor, "clips labels"], weights: Int[Tensor, "clips labels"], num_frames: Int[Tensor, " clips"]
) -> Int[Tensor, "clips encoder_frames"]:
    """A target for every encoder frame, as if each label lasted in proportion to its weight; `IGNORED` beyond a clip.

    Padding labels have weight 0. Such a start saves CTC the long plateau on which it learns nothing but which pieces
    are frequent: the transcripts of this world have a clear place in time, since a synthesiser speaks evenly.
    """
    ends = weights.cumsum(1) / weights.sum(1, keepdim=True)
    frames = torch.arange(int(num_frames.max()))
    middles = (frames + 0.5) / num_frames[:, None]
    spoken = torch.searchsorted(ends, middles).clamp(max=labels.shape[1] - 1)
    return labels.gather(1, spoken).masked_fill(frames >= num_frames[:, None], IGNORED)


def build_base_encoder(config: BaseEncoderConfig, tokenizer: ParakeetTokenizer) -> ParakeetForCTC:
    """A FastConformer of random weights with a CTC head over the pieces of `tokenizer`."""
    encoder = ParakeetEncoderConfig(
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        intermediate_size=config.intermediate_size,
        subsampling_conv_channels=config.conv_channels,
        num_mel_bins=config.features.num_mels,
        log_mel=config.features.model_dump(exclude_defaults=True),
        dropout=config.dropout,
        activation_dropout=config.dropout,
        attention_dropout=config.dropout,
        layerdrop=0.0,
    )
    blank = tokenizer.pad_token_id
    model = ParakeetForCTC(ParakeetCTCConfig(encoder_config=encoder, vocab_size=len(tokenizer), pad_token_id=blank))
    model.encoder = FastConformerTower(encoder)
    initialise(model)
    # Twice as fast in the convolutions of the front end on a CPU.
    return model.to(memory_format=torch.channels_last)


@torch.no_grad()
def copy_base_encoder(start: Path, model: ParakeetForCTC, tokenizer: ParakeetTokenizer) -> None:
    """Give `model` the encoder of the folder `start`, and the rows of its head for the pieces that both know.

    Raises:
        ModelError: the folder holds no CTC encoder, or one of another size.
    """
    if not (start / "config.json").is_file():
        expected = "a folder of a ParakeetForCTC model with its tokenizer"
        raise ModelError(describe(str(start), "there is no encoder", expected, "Run vtb prepare mini first"))
    old = load_whole(ParakeetForCTC, str(start))
    sizes = {name: tensor.shape for name, tensor in old.encoder.state_dict().items()}
    if sizes != {name: tensor.shape for name, tensor in model.encoder.state_dict().items()}:
        found = f"its encoder has {old.encoder.num_parameters():,} parameters"
        expected = f"one of {model.encoder.num_parameters():,}, in the same layers, is adapted"
        raise ModelError(describe(str(start), found, expected, "Choose the base encoder of the embedded world"))
    model.encoder.load_state_dict(old.encoder.state_dict())
    places = AutoTokenizer.from_pretrained(start, local_files_only=True).get_vocab()
    for piece, row in tokenizer.get_vocab().items():
        if piece in places:
            model.ctc_head.weight[row] = old.ctc_head.weight[places[piece]]
            model.ctc_head.bias[row] = old.ctc_head.bias[places[piece]]


def initialise(model: torch.nn.Module) -> None:
    """Draw weights by the number of inputs of each layer.

    The library draws all from a normal distribution of deviation 0.02; a 3 x 3 convolution of one channel then passes
    6 % of its signal on, three of them almost nothing, and training stands still at first.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, torch.nn.Linear | torch.nn.Conv1d):
            module.reset_parameters()


def train_ctc_tokenizer(texts: Sequence[str], vocab_size: int) -> ParakeetTokenizer:
    """A byte-pair tokenizer of at most `vocab_size` pieces, none across a word boundary or a punctuation mark."""
    bpe = Tokenizer(BPE(unk_token=UNKNOWN))
    bpe.pre_tokenizer = PreTokenizers([Metaspace(), Punctuation()])
    bpe.decoder = MetaspaceDecoder()
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BLANK, UNKNOWN],
        initial_alphabet=list(ALPHABET),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return ParakeetTokenizer(tokenizer_object=bpe, pad_token=BLANK, unk_token=UNKNOWN)


class ClipBatches:
    """Batches of clips of like length; which clips make up a step follows from the step alone.

    Clips with fewer encoder frames than CTC needs for their transcript are left out and counted.

    Args:
        cache_dir: where it is kept which recordings of noise and rooms are sound.
    """

    def __init__(
        self, clips: Sequence[TranscribedClip], tokenizer: ParakeetTokenizer, config: BaseEncoderConfig, cache_dir: Path
    ) -> None:
        labels = tokenizer([clip.text for clip in clips], add_special_tokens=False)["input_ids"]
        kept = [index for index, clip in enumerate(clips) if fits_ctc(clip.num_samples, labels[index])]
        if not kept:
            found = f"none of the {len(clips)} clips is long enough for its transcript"
            raise DataError(
                describe("speech encoder", found, "CTC needs an encoder frame for each piece", "Speak slower")
            )
        self.num_dropped = len(clips) - len(kept)
        self.clips = [clips[index] for index in kept]
        self.labels = [torch.tensor(labels[index]) for index in kept]
        self.blank = tokenizer.pad_token_id
        self.piece_lengths = torch.tensor(
            [len(piece) for piece in tokenizer.convert_ids_to_tokens(range(len(tokenizer)))]
        )
        self.piece_lengths[self.blank] = 0
        self.config = config
        self.log_mel = LogMel(config.features)
        self.distort = Distorter(config.augment, "augment", cache_dir) if config.augment else None
        self.features: dict[int, Tensor] = {}
        self.epoch = lru_cache(maxsize=2)(self._epoch)

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Features [clips, frames, mels], which frames are real [clips, frames], and labels padded with the blank."""
        num_batches = max(1, len(self.clips) // self.config.clips_per_step)
        epoch, position = divmod(step, num_batches)
        members = self.epoch(epoch)[position]
        keys = [derive_seed("clip", self.config.pretrain.seed, epoch, member) for member in members]
        features = self._changed_features(members, keys) if self.config.augment else self._features(members)
        num_frames = torch.tensor([len(frames) for frames in features])
        padded = pad_sequence(features, batch_first=True).float()
        inside = torch.arange(padded.shape[1]) < num_frames[:, None]
        if self.config.spec_augment:
            padded = spec_augment(padded, num_frames, self.config.spec_augment, keys)
        labels = pad_sequence([self.labels[member] for member in members], batch_first=True, padding_value=self.blank)
        return padded, inside, labels

    def _epoch(self, epoch: int) -> list[list[int]]:
        """The batches of one pass over the clips: sorted by length with some jitter, cut, and shuffled."""
        order = random.Random(derive_seed("epoch", self.config.pretrain.seed, epoch))
        size = self.config.clips_per_step
        members = sorted(
            range(len(self.clips)), key=lambda member: self.clips[member].num_samples * order.uniform(0.95, 1.05)
        )
        if len(members) <= size:
            return [members]
        spare = order.sample(range(len(members)), len(members) % size)
        members = [member for index, member in enumerate(members) if index not in set(spare)]
        batches = [members[start : start + size] for start in range(0, len(members), size)]
        order.shuffle(batches)
        return batches

    def _features(self, members: Sequence[int]) -> list[Tensor]:
        """Features of clips [frames, mels] each; kept in half precision, since reading and transforming takes time."""
        if missing := [member for member in members if member not in self.features]:
            waveforms = [read_waveform(self.clips[member].path) for member in missing]
            self.features |= zip(missing, (rows.half() for rows in self._transform(waveforms)), strict=True)
        return [self.features[member] for member in members]

    def _changed_features(self, members: Sequence[int], keys: Sequence[int]) -> list[Tensor]:
        """Features of clips as they might sound elsewhere; one that would be too short for CTC keeps its speed."""
        waveforms = []
        for member, key in zip(members, keys, strict=True):
            waveform = read_waveform(self.clips[member].path)
            percent = self._speed(key)
            if fits_ctc(num_samples_at_speed(len(waveform), percent), self.labels[member].tolist()):
                waveform = change_speed(waveform, percent)
            waveforms.append(self.distort(waveform, key) if self.distort else waveform)
        return self._transform(waveforms)

    def _speed(self, key: int) -> int:
        config = self.config.augment
        return draw_speed(config.speed, derive_seed(key, "speed")) if config and config.speed else 100

    def _transform(self, waveforms: Sequence[np.ndarray]) -> list[Tensor]:
        features, mask = extract_features(self.log_mel, [torch.from_numpy(waveform) for waveform in waveforms])
        return [rows[:num_frames].clone() for rows, num_frames in zip(features, mask.sum(1).tolist(), strict=True)]


def fits_ctc(num_samples: int, labels: Sequence[int]) -> bool:
    """Whether a clip has a frame for every label and a blank between equal neighbours."""
    num_repeats = sum(left == right for left, right in itertools.pairwise(labels))
    return num_audio_tokens(num_samples) >= len(labels) + num_repeats


@torch.no_grad()
def calibrate_batch_norm(model: torch.nn.Module, data: ClipBatches, num_steps: int) -> None:
    """Replace the running statistics of batch normalisation by their means over batches under the final weights.

    Running statistics lag behind the weights and weigh the last batches most; whoever fine-tunes the encoder with
    frozen statistics inherits both. The model is left in evaluation mode.

    Source: Wu and Johnson, Rethinking "Batch" in BatchNorm, arXiv 2105.07576.
    """
    model.eval()
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm1d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
        norm.train()
    for step in range(num_steps):
        features, inside, _ = data.batch(step)
        model(input_features=features, attention_mask=inside)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
