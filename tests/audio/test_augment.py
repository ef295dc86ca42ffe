from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from voicetextblender.audio.augment import SpecAugmentConfig, spec_augment


@given(st.lists(st.tuples(st.integers(1, 200), st.integers(0, 2**63 - 1)), min_size=1, max_size=4))
@settings(deadline=None, max_examples=50)
def test_masks_depend_on_key_and_length_alone(clips: list[tuple[int, int]]) -> None:
    config = SpecAugmentConfig()
    lengths, keys = [length for length, _ in clips], [key for _, key in clips]
    together = spec_augment(torch.ones(len(clips), max(lengths), 80), torch.tensor(lengths), config, keys)
    for row, (length, key) in enumerate(clips):
        alone = spec_augment(torch.ones(1, length, 80), torch.tensor([length]), config, [key])
        assert torch.equal(together[row, :length], alone[0])


@given(st.integers(1, 400), st.integers(0, 2**63 - 1))
@settings(deadline=None, max_examples=50)
def test_no_more_is_masked_than_the_config_allows(length: int, key: int) -> None:
    config = SpecAugmentConfig(num_frequency_masks=2, max_frequency_width=5, num_time_masks=3, max_time_fraction=0.1)
    masked = spec_augment(torch.ones(1, length, 80), torch.tensor([length]), config, [key])[0] == 0
    assert masked.all(dim=0).sum() <= 2 * 5 or masked.all()
    assert masked.all(dim=1).sum() <= 3 * int(0.1 * length)


def test_the_input_is_left_alone_and_other_keys_mask_otherwise() -> None:
    features = torch.ones(2, 100, 80)
    augmented = spec_augment(features, torch.tensor([100, 100]), SpecAugmentConfig(), [1, 2])
    assert features.all()
    assert not torch.equal(augmented[0], augmented[1])


def test_no_masks_no_change() -> None:
    features = torch.randn(1, 50, 80)
    config = SpecAugmentConfig(num_frequency_masks=0, num_time_masks=0)
    assert torch.equal(spec_augment(features, torch.tensor([50]), config, [3]), features)
