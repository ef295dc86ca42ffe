"""A warm start of the modality adapter: audio embeddings that resemble the text embeddings of what the encoder hears.

Beyond the paper. An encoder that comes with a CTC head already says which piece of text each frame holds. The adapter's
linear map is fitted in closed form so that a frame starts near the LLM's own embedding of that piece, and a blank frame
near zero: the LLM reads rough text from the first step instead of noise. Everything learns on from there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, ParakeetForCTC

from voicetextblender.batch import Batch
from voicetextblender.errors import ModelError, describe
from voicetextblender.model.build import Composite, load_whole
from voicetextblender.model.clips import extract_features, group_by_length

RIDGE = 1e-3
"""Weight of the penalty on the map, relative to the mean variance of its inputs."""


@torch.no_grad()
def warm_start_projection(composite: Composite, encoder_path: str, batches: Iterable[Batch]) -> float:
    """Fit the adapter's linear map to the CTC head of the encoder in `encoder_path`, over the clips of `batches`.

    Returns:
        The share of the target embeddings' variance that the fitted map explains, 0 to 1.

    Raises:
        ModelError: The encoder has no CTC head.
    """
    if AutoConfig.from_pretrained(encoder_path).model_type != "parakeet_ctc":
        raise ModelError(
            describe(
                f"model.warm_start with {encoder_path}",
                "the encoder has no CTC head",
                "a warm start needs a ParakeetForCTC folder",
                "Choose such an encoder, or set model.warm_start to none",
            )
        )
    model, device = composite.model.model, composite.model.device
    head = load_whole(ParakeetForCTC, encoder_path).ctc_head.to(device)
    pieces = piece_embeddings(composite, encoder_path)
    inputs, targets = [], []
    for waveforms in (batch.to(device).waveforms for batch in batches):
        for group in group_by_length([len(waveform) for waveform in waveforms]):
            features, mask = extract_features(composite.log_mel, [waveforms[index] for index in group])
            encoded = model.audio_tower(input_features=features, attention_mask=mask)
            valid = encoded.attention_mask.bool()
            inputs.append(model.adapter.convolve(encoded.last_hidden_state, valid)[valid])
            targets.append(head(encoded.last_hidden_state)[valid].softmax(-1) @ pieces)
    if not inputs:
        return 0.0
    weight, bias, explained = fit_linear(torch.cat(inputs), torch.cat(targets))
    model.adapter.projection.weight.copy_(weight)
    model.adapter.projection.bias.copy_(bias)
    return explained


def piece_embeddings(composite: Composite, encoder_path: str) -> Float[Tensor, "vocab hidden"]:
    """For each piece of the CTC vocabulary the mean of the LLM's embeddings of its text; zero for blank and unknown."""
    tokenizer = AutoTokenizer.from_pretrained(Path(encoder_path))
    embedding = composite.model.get_input_embeddings()
    rows = torch.zeros(len(tokenizer), composite.model.config.text_config.hidden_size, device=composite.model.device)
    special: Sequence[int] = tokenizer.all_special_ids
    for piece in range(len(tokenizer)):
        text = tokenizer.decode([piece])
        ids = composite.tokenizer(text, add_special_tokens=False)["input_ids"] if piece not in special else []
        if ids:
            rows[piece] = embedding(torch.tensor([ids], device=rows.device))[0].mean(0)
    return rows


def fit_linear(
    inputs: Float[Tensor, "frames size"], targets: Float[Tensor, "frames hidden"]
) -> tuple[Float[Tensor, "hidden size"], Float[Tensor, " hidden"], float]:
    """Weight and bias of the least-squares map from `inputs` to `targets`, and the share of variance it explains."""
    x, y = inputs.double(), targets.double()
    mean_x, mean_y = x.mean(0), y.mean(0)
    x, y = x - mean_x, y - mean_y
    gram = x.T @ x
    gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    weight = torch.linalg.solve(gram, x.T @ y).T
    explained = 1.0 - float((y - x @ weight.T).square().sum() / y.square().sum())
    return weight.float(), (mean_y - weight @ mean_x).float(), explained
