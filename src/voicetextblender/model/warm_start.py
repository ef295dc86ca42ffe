"""A warm start of the modality adapter: audio embeddings that resemble the text embeddings of what the encoder hears.

Beyond the paper. An encoder that comes with a CTC head already says which piece of text each frame holds. The last
feed-forward block of the adapter starts as a table: a unit for every piece, which a frame with that piece switches on,
and the LLM's own embedding of the piece as what the unit writes; a frame without any gives the LLM's embedding of a
pause. All of it is found by least squares. The LLM reads rough text from the first step instead of noise, and
everything learns on from there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, ParakeetForCTC

from voicetextblender.audio.front_end import extract_features
from voicetextblender.audio.groups import group_by_length
from voicetextblender.batch import Batch
from voicetextblender.errors import ModelError, describe
from voicetextblender.model.adapters.conformer import ConformerAdapter
from voicetextblender.model.build import Composite
from voicetextblender.model.encoders.load import load_whole

PAUSE = "…"
"""What an LLM has read where a speaker said nothing."""

WORD_START = "\u2581"
"""How pieces that begin a word are marked in a CTC vocabulary."""

RIDGE = 1e-3
"""Weight of the penalty on a fitted map, relative to the mean variance of its inputs."""

RARENESS = 0.75
"""A frame counts by how seldom its piece was heard, to this power: 0 is by frames, 1 is by pieces."""

MARGIN = 5.0
"""A unit switches on where the log-posterior of its piece is above minus this."""

OFF = -3.0
"""A unit that should be off is wanted below this; how far below is all the same."""

NUM_FITS = 10
"""Rounds in which the units are fitted."""

TABLE_SCALE, PAUSE_SCALE = 16.0, 8.0
"""How much stronger than the frame itself the table writes, for a piece and for a pause. The frame is noise to it."""

RESIDUAL_SHARE = 0.5
"""A Conformer layer adds half of what its feed-forward blocks write."""


class Frames(NamedTuple):
    """What the encoder makes of the clips, and what the adapter should make of that."""

    encoded: list[tuple[Tensor, Tensor]]
    """Hidden states [clips frames size] and which frames are valid [clips frames], by group."""
    log_posteriors: Float[Tensor, "frames vocab"]
    targets: Float[Tensor, "frames hidden"]
    weights: Float[Tensor, " frames"]
    """How much each one counts in the fits; 1 on average."""


@torch.no_grad()
def warm_start_adapter(composite: Composite, encoder_path: str, batches: Iterable[Batch]) -> float:
    """Fit the adapter to the CTC head of the encoder in `encoder_path`, over the clips of `batches`.

    Returns:
        The share of the target embeddings' variance that the adapter explains then, 0 to 1.

    Raises:
        ModelError: The encoder has no CTC head.
    """
    adapter = composite.model.model.adapter
    assert isinstance(adapter, ConformerAdapter), "a recipe with a warm start and another adapter is refused"
    if AutoConfig.from_pretrained(encoder_path).model_type != "parakeet_ctc":
        raise ModelError(
            describe(
                f"model.warm_start with {encoder_path}",
                "the encoder has no CTC head",
                "a warm start needs a ParakeetForCTC folder",
                "Choose such an encoder, or set model.warm_start to none",
            )
        )
    blank = AutoTokenizer.from_pretrained(encoder_path).pad_token_id
    pieces = piece_embeddings(composite, encoder_path)
    frames = listen(composite, encoder_path, pieces, batches)
    if not frames.encoded:
        return 0.0
    quieten(adapter)
    fill_table(adapter, frames, pieces, blank)
    outputs = torch.cat([adapter.convolve(*group)[group[1]] for group in frames.encoded])
    weight, bias, explained = fit_linear(outputs, frames.targets, frames.weights)
    adapter.projection.weight.copy_(weight)
    adapter.projection.bias.copy_(bias)
    return explained


def listen(composite: Composite, encoder_path: str, pieces: Tensor, batches: Iterable[Batch]) -> Frames:
    """Run the encoder and its CTC head over the clips of `batches`."""
    model, device = composite.model.model, composite.model.device
    head = load_whole(ParakeetForCTC, encoder_path).ctc_head.to(device)
    encoded, log_posteriors = [], [torch.zeros(0, len(pieces), device=device)]
    for waveforms in (batch.to(device).waveforms for batch in batches):
        for group in group_by_length([len(waveform) for waveform in waveforms], model.group_cost):
            features, mask = extract_features(composite.front_end, [waveforms[index] for index in group])
            output = model.audio_tower(input_features=features, attention_mask=mask)
            valid = output.attention_mask.bool()
            encoded.append((output.last_hidden_state, valid))
            log_posteriors.append(head(output.last_hidden_state)[valid].log_softmax(-1))
    joined = torch.cat(log_posteriors)
    return Frames(encoded, joined, joined.exp() @ pieces, weigh_frames(joined))


def weigh_frames(log_posteriors: Float[Tensor, "frames vocab"]) -> Float[Tensor, " frames"]:
    """More for the frames of seldom pieces.

    Most frames are pauses or the same few words. Fitted as they come, a piece that was heard a dozen times costs next
    to nothing when it is taken for another, and that word is then not understood.
    """
    pieces = log_posteriors.argmax(-1)
    weights = pieces.bincount().to(log_posteriors)[pieces].pow(-RARENESS)
    return weights / weights.mean()


def quieten(adapter: ConformerAdapter) -> None:
    """Let no block of the adapter write anything yet, so that the frames come to the table as the encoder made them."""
    for layer in adapter.layers:
        block: Any = layer
        for writes in (
            block.feed_forward1.linear2,
            block.self_attn.o_proj,
            block.conv.pointwise_conv2,
            block.feed_forward2.linear2,
        ):
            for parameter in writes.parameters():
                parameter.zero_()


def fill_table(adapter: ConformerAdapter, frames: Frames, pieces: Tensor, blank: int) -> None:
    """Make the last feed-forward block write a narrowed embedding of the piece, or of a pause, that a frame holds.

    Where it has fewer units than there are pieces, the pieces heard most often get one.
    """
    block: Any = adapter.layers[-1]
    table = block.feed_forward2
    residual, normed = feed_forward_inputs(adapter, frames)
    num_units, size = table.linear1.out_features, table.linear2.out_features
    heard = frames.log_posteriors.exp().sum(0)
    heard[blank] = -1.0
    kept = heard.argsort(descending=True, stable=True)[: min(num_units, len(pieces) - 1)]
    weight, bias = fit_units(normed, frames.log_posteriors[:, kept] + MARGIN, frames.weights)
    table.linear1.weight[: len(kept)], table.linear1.bias[: len(kept)] = weight, bias

    offsets = pieces[kept] - pieces[blank]
    directions = torch.linalg.svd(offsets, full_matrices=False).Vh[:size]
    narrowed = torch.zeros(len(kept), size, device=offsets.device)
    narrowed[:, : len(directions)] = offsets @ directions.T
    units = table.activation(normed @ weight.T + bias)
    switched_on = units.max(1).values > 1.0
    strength = root_mean_square(units[switched_on] @ narrowed) if bool(switched_on.any()) else narrowed.new_ones(())
    scale = root_mean_square(residual) / RESIDUAL_SHARE
    table.linear2.weight.zero_()
    table.linear2.weight[:, : len(kept)] = (TABLE_SCALE * scale / strength * narrowed).T
    pause = torch.randn(size, generator=torch.Generator().manual_seed(0)).to(scale)  # any, but the same on all ranks
    table.linear2.bias.copy_(PAUSE_SCALE * scale * pause / root_mean_square(pause))


def fit_units(
    inputs: Float[Tensor, "frames size"], wanted: Float[Tensor, "frames units"], weights: Float[Tensor, " frames"]
) -> tuple[Float[Tensor, "units size"], Float[Tensor, " units"]]:
    """Weight and bias of units that give `wanted` where that is above zero, and are off, by any margin, elsewhere.

    Plain least squares would spend itself on how far below zero a unit is in the many frames that have nothing to do
    with it. So it is repeated, and what is off far enough is right as it is.
    """
    target, squares = wanted, LeastSquares(inputs, weights)
    for _ in range(NUM_FITS):
        weight, bias = (part.float() for part in squares.fit(target))
        target = torch.where(wanted > 0, wanted, (inputs @ weight.T + bias).clamp(max=OFF))
    return weight, bias


def feed_forward_inputs(
    adapter: ConformerAdapter, frames: Frames
) -> tuple[Float[Tensor, "frames size"], Float[Tensor, "frames size"]]:
    """What reaches the last feed-forward block, before and after its layer normalisation."""
    seen: list[tuple[Tensor, Tensor]] = []
    block: Any = adapter.layers[-1]
    norm = block.norm_feed_forward2
    hook = norm.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    try:
        for group in frames.encoded:
            adapter.convolve(*group)
    finally:
        hook.remove()
    before, after = (torch.cat(parts) for parts in zip(*seen, strict=True))
    return before, after


def root_mean_square(values: Tensor) -> Tensor:
    """Over all values; a scalar."""
    return values.square().mean().sqrt()


def piece_embeddings(composite: Composite, encoder_path: str) -> Float[Tensor, "vocab hidden"]:
    """For each piece of the CTC vocabulary the mean of the LLM's embeddings of its text; of a pause for the blank.

    A piece that begins a word is read with the space before it, as within a text.
    """
    tokenizer = AutoTokenizer.from_pretrained(Path(encoder_path))
    embedding = composite.model.get_input_embeddings()
    rows = torch.zeros(len(tokenizer), composite.model.config.text_config.hidden_size, device=composite.model.device)
    special: Sequence[int] = tokenizer.all_special_ids
    for piece in range(len(tokenizer)):
        begins_word = tokenizer.convert_ids_to_tokens(piece).startswith(WORD_START)
        text = PAUSE if piece in special else " " * begins_word + tokenizer.decode([piece]).strip()
        ids = composite.tokenizer(text, add_special_tokens=False)["input_ids"]
        if ids:
            rows[piece] = embedding(torch.tensor([ids], device=rows.device))[0].mean(0)
    return rows


class LeastSquares:
    """Least-squares maps from the same inputs `[frames size]`, each frame with its weight."""

    def __init__(self, inputs: Float[Tensor, "frames size"], weights: Float[Tensor, " frames"]) -> None:
        x = inputs.double()
        self.shares = (weights.double() / weights.double().sum()).unsqueeze(1)
        self.mean = (self.shares * x).sum(0)
        centred = x - self.mean
        self.weighed = self.shares * centred
        self.gram = self.weighed.T @ centred
        self.gram += RIDGE * self.gram.diagonal().mean() * torch.eye(len(self.gram)).to(self.gram)

    def fit(
        self, targets: Float[Tensor, "frames hidden"]
    ) -> tuple[Float[Tensor, "hidden size"], Float[Tensor, " hidden"]]:
        """Weight and bias of the map to `targets`, in float64."""
        y = targets.double()
        mean = (self.shares * y).sum(0)
        weight = torch.linalg.solve(self.gram, self.weighed.T @ (y - mean)).T
        return weight, mean - weight @ self.mean


def fit_linear(
    inputs: Float[Tensor, "frames size"], targets: Float[Tensor, "frames hidden"], weights: Float[Tensor, " frames"]
) -> tuple[Float[Tensor, "hidden size"], Float[Tensor, " hidden"], float]:
    """Weight and bias of the least-squares map from `inputs` to `targets`, and the share of variance it explains."""
    squares, y = LeastSquares(inputs, weights), targets.double()
    weight, bias = squares.fit(targets)
    missed = y - inputs.double() @ weight.T - bias
    spread = y - (squares.shares * y).sum(0)
    explained = 1.0 - float((squares.shares * missed.square()).sum() / (squares.shares * spread.square()).sum())
    return weight.float(), bias.float(), explained
