from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from voicetextblender.audio.windows import Windows


@given(st.integers(1, 400), st.integers(1, 50), st.integers(0, 24))
def test_every_position_is_kept_once_and_lies_inside_its_window(length: int, size: int, half: int) -> None:
    windows = Windows(size, 2 * min(half, (size - 1) // 2))
    kept = []
    for index in range(windows.count(length)):
        part = windows.kept(index, length)
        assert 0 <= part.start < part.stop <= size
        kept += [index * windows.step + place for place in range(part.start, part.stop)]
    assert kept == list(range(length))


@given(st.integers(1, 400), st.integers(1, 50), st.integers(0, 24))
def test_windows_reach_to_the_end_and_no_further_than_they_must(length: int, size: int, half: int) -> None:
    windows = Windows(size, 2 * min(half, (size - 1) // 2))
    assert windows.padded(length) >= length
    assert windows.count(length) == 1 or windows.padded(length) - windows.step < length


@given(st.integers(1, 900), st.integers(2, 50), st.integers(0, 24), st.integers(1, 4))
def test_finer_windows_are_as_many(length: int, size: int, half: int, factor: int) -> None:
    windows = Windows(size, 2 * min(half, (size - 1) // 2))
    assert windows.scaled(factor).count(length) == windows.count(-(-length // factor))
