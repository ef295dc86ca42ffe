"""FastConformer without padding, against the library's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import ParakeetEncoder, ParakeetEncoderConfig

from voicetextblender.mini.base_encoder import initialise
from voicetextblender.model.encoders.conformer import FastConformerTower


def make_towers(seed: int, **values: object) -> tuple[ParakeetEncoder, FastConformerTower]:
    """The library's encoder and ours, with the same weights, none zero, through which clips can be told apart."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
    config = ParakeetEncoderConfig(**(sizes | {"num_mel_bins": 16, "layerdrop": 0.0} | values))
    library = ParakeetEncoder(config)
    initialise(library)
    for parameter in library.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    ours = FastConformerTower(config)
    ours.load_state_dict(library.state_dict())
    return library.eval(), ours.eval()


def make_clips(seed: int, num_clips: int) -> tuple[Tensor, Tensor]:
    """Features of clips of any length, with noise behind their ends, and the mask of their frames."""
    torch.manual_seed(seed)
    lengths = torch.randint(1, 150, (num_clips,))
    return torch.randn(num_clips, int(lengths.max()), 16), torch.arange(int(lengths.max())) < lengths[:, None]


@pytest.mark.parametrize("seed", range(8))
def test_valid_frames_and_gradients_are_the_librarys(seed: int) -> None:
    values = [{}, {"conv_kernel_size": 5, "scale_input": False}, {"attention_bias": False, "convolution_bias": False}]
    library, ours = make_towers(seed, **values[seed % 3])
    features, mask = make_clips(seed, 1 + seed % 5)
    expected, found = (tower(input_features=features, attention_mask=mask) for tower in (library, ours))
    valid = found.attention_mask
    assert expected.last_hidden_state[valid].std(0).mean() > 0.1
    assert torch.equal(valid, expected.attention_mask.bool())
    torch.testing.assert_close(found.last_hidden_state[valid], expected.last_hidden_state[valid], rtol=1e-4, atol=1e-5)
    assert not found.last_hidden_state[~valid].any()
    directions = torch.randn_like(expected.last_hidden_state)
    for output in (expected, found):
        (output.last_hidden_state * directions)[valid].sum().backward()
    theirs = dict(library.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-3, atol=1e-4, msg=name)


def test_clips_without_a_mask_are_whole() -> None:
    library, ours = make_towers(0)
    features, _ = make_clips(0, 3)
    expected, found = library(features), ours(features)
    torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state, rtol=1e-4, atol=1e-5)
    assert found.attention_mask is None


def test_batch_statistics_are_those_of_valid_frames() -> None:
    """The library's training mode counts padding too, so its statistics depend on what else is in the batch."""
    _, ours = make_towers(1, num_hidden_layers=1, dropout=0.0, activation_dropout=0.0, attention_dropout=0.0)
    features, mask = make_clips(1, 4)
    padded, longer = torch.nn.functional.pad(features, (0, 0, 0, 200)), torch.nn.functional.pad(mask, (0, 200))
    ours.train()
    found = ours(input_features=features, attention_mask=mask)
    valid = found.attention_mask
    again = ours(input_features=padded, attention_mask=longer)
    torch.testing.assert_close(
        again.last_hidden_state[again.attention_mask], found.last_hidden_state[valid], rtol=1e-4, atol=1e-5
    )
