"""The warm start: a linear map fitted to what the encoder's CTC head already says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.tiny import make_recipe
from tests.tiny_encoders import make_ctc
from voicetextblender.data.loader import build_loader
from voicetextblender.data.measure import Geometry
from voicetextblender.errors import ModelError
from voicetextblender.model.adapters.conformer import ConformerAdapter
from voicetextblender.model.build import build_composite
from voicetextblender.model.warm_start import (
    PAUSE,
    Frames,
    fill_table,
    fit_linear,
    fit_units,
    piece_embeddings,
    warm_start_adapter,
    weigh_frames,
)


def test_a_linear_relation_is_found() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(500, 6, generator=generator)
    weight, bias = torch.randn(3, 6, generator=generator), torch.randn(3, generator=generator)
    evenly = torch.ones(500)
    found_weight, found_bias, explained = fit_linear(inputs, inputs @ weight.T + bias, evenly)
    torch.testing.assert_close(found_weight, weight, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(found_bias, bias, rtol=1e-2, atol=1e-2)
    assert explained > 0.999
    _, _, nothing = fit_linear(inputs, torch.randn(500, 3, generator=generator), evenly)
    assert nothing < 0.1


def test_a_weight_counts_like_so_many_frames() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn(60, 6, generator=generator), torch.randn(60, 3, generator=generator)
    times = torch.arange(60) % 3 + 1
    weighed = fit_linear(inputs, targets, times.float())
    repeated = fit_linear(inputs.repeat_interleave(times, 0), targets.repeat_interleave(times, 0), torch.ones(120))
    torch.testing.assert_close(weighed, repeated)


def test_frames_of_a_seldom_piece_count_for_more_but_the_piece_for_less() -> None:
    log_posteriors = torch.eye(3)[torch.tensor([0] * 16 + [1] * 2)].log_softmax(-1)
    weights = weigh_frames(log_posteriors)
    torch.testing.assert_close(weights.mean(), torch.tensor(1.0))
    often, seldom = weights[0], weights[-1]
    assert often < seldom and 16 * often > 2 * seldom


def test_units_are_found_that_least_squares_alone_misses() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2000, 8, generator=generator)
    before = inputs @ torch.randn(4, 8, generator=generator).T - 4.0
    wanted = torch.where(before > 0, before, -40.0 * torch.rand(before.shape, generator=generator))
    is_on, evenly = wanted > 0, torch.ones(2000)

    def missed(weight: torch.Tensor, bias: torch.Tensor) -> float:
        return float(((inputs @ weight.T + bias)[is_on] - wanted[is_on]).abs().mean())

    assert missed(*fit_units(inputs, wanted, evenly)) < 0.5 * missed(*fit_linear(inputs, wanted, evenly)[:2])


def test_the_adapter_starts_near_the_text_that_is_heard(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(make_ctc(tmp_path / "ctc", tmp_path / "encoder"))
    composite = build_composite(recipe.model.model_copy(update={"speech_encoder": str(tmp_path / "ctc")}), 0)
    pieces = piece_embeddings(composite, str(tmp_path / "ctc"))
    pause = composite.tokenizer(PAUSE, add_special_tokens=False)["input_ids"]
    (piece,) = tokenizer("eight", add_special_tokens=False)["input_ids"][:1]
    ids = composite.tokenizer(" " + tokenizer.decode([piece]), add_special_tokens=False)["input_ids"]
    embedding = AutoModelForCausalLM.from_pretrained(tmp_path / "llm").get_input_embeddings().weight
    torch.testing.assert_close(pieces[piece], embedding[ids].mean(0).detach())
    torch.testing.assert_close(pieces[tokenizer.pad_token_id], embedding[pause].mean(0).detach())

    geometry = Geometry(composite.num_audio_tokens, composite.geometry_fingerprint)
    loader = build_loader(recipe.data, composite.renderer, geometry, recipe.seed)
    before = composite.model.model.adapter.projection.weight.clone()
    explained = warm_start_adapter(composite, str(tmp_path / "ctc"), loader.load(0) + loader.load(1))
    assert 0.0 < explained <= 1.0
    assert not torch.equal(before, composite.model.model.adapter.projection.weight)


def test_the_table_gives_what_no_linear_map_can() -> None:
    """Forty pieces at random places of a space of sixteen dimensions; each has an embedding that lies anywhere."""
    generator = torch.Generator().manual_seed(0)
    num_pieces, size, hidden, blank = 40, 16, 24, 0
    places = torch.nn.functional.normalize(torch.randn(num_pieces, size, generator=generator), dim=1) * size**0.5
    pieces = torch.randn(num_pieces, 6, generator=generator) @ torch.randn(6, hidden, generator=generator)
    heard = torch.randint(num_pieces, (40, 30), generator=generator)
    encoded = places[heard] + 0.05 * torch.randn(40, 30, size, generator=generator)
    log_posteriors = (3.0 * encoded.flatten(0, 1) @ places.T).log_softmax(-1)
    torch.manual_seed(0)
    adapter = ConformerAdapter(size, hidden, {"num_heads": 2, "dropout": 0.0}).eval()
    for parameter in adapter.layers.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, 0.0, 0.02)
    valid = torch.ones(40, 30, dtype=torch.bool)
    weights = weigh_frames(log_posteriors)
    frames = Frames([(encoded, valid)], log_posteriors, log_posteriors.exp() @ pieces, weights)

    def explained() -> float:
        return fit_linear(adapter.convolve(encoded, valid).flatten(0, 1), frames.targets, weights)[2]

    with torch.no_grad():
        linear = explained()
        fill_table(adapter, frames, pieces, blank)
        assert explained() > 0.85 > 0.7 > linear


def test_an_encoder_without_a_ctc_head_is_refused(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path)
    composite = build_composite(recipe.model, 0)
    with pytest.raises(
        ModelError, match=r"the encoder has no CTC head; a warm start needs a ParakeetForCTC folder\. Choose"
    ):
        warm_start_adapter(composite, recipe.model.speech_encoder, [])
