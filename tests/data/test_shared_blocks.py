"""Arrays in memory that two processes see: whole, never overwritten while in use, and bounded."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from voicetextblender.audio.waveform import Allocate
from voicetextblender.data import shared_blocks
from voicetextblender.data.reading import Known, Tell
from voicetextblender.data.shared_blocks import BLOCK_BYTES, MOST_BLOCKS, BlockReader, BlockWriter, InUse
from voicetextblender.data.workers import PREFETCHED_STEPS, make_steps

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs memory without a name")


class Pair:
    """A writer and a reader in this process, with what they share."""

    def __init__(self) -> None:
        self.in_use = multiprocessing.RawArray("b", MOST_BLOCKS)
        self.ours, self.theirs = multiprocessing.Pipe()
        self.writer, self.reader = BlockWriter(self.in_use), BlockReader(self.in_use, self.ours)

    def carry(self, thing: Any) -> Any:
        parcel = self.writer.pack(thing)
        sending = threading.Thread(target=parcel.send, args=(self.theirs,))
        sending.start()
        received = self.reader.receive()
        sending.join()
        return received

    @property
    def num_taken(self) -> int:
        return sum(map(bool, self.in_use))


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.ours.close()
    pair.theirs.close()


def count_maps() -> int:
    return Path("/proc/self/maps").read_text().count("vtb-batch")


def test_things_arrive_as_they_were_sent(pair: Pair) -> None:
    random = np.random.default_rng(0)
    for number in range(40):
        sizes = random.integers(0, 60_000, size=random.integers(1, 8))
        waveforms = [pair.writer.allocate(size) for size in sizes]
        for waveform in waveforms:
            waveform[:] = random.normal(size=len(waveform))
        others = [random.integers(0, 9, size=(2, size)) for size in sizes]
        frozen = random.normal(size=9_000)
        frozen.flags.writeable = False
        parts = [waveform[len(waveform) // 3 :] for waveform in waveforms[::2]]
        sent = (number, {"waveforms": waveforms[::-1], "others": others}, parts, frozen, others[0].T, "text")
        received = pair.carry(sent)
        np.testing.assert_equal(received, sent)
        assert [array.flags.writeable for array in received[1]["waveforms"]] == [True] * len(sizes)
        assert not received[3].flags.writeable


def test_what_was_allocated_is_not_copied(pair: Pair) -> None:
    waveform = pair.writer.allocate(10_000)
    received = pair.carry(waveform)
    waveform[5] = 17.0
    received[6] = 18.0
    assert received[5] == 17.0 and waveform[6] == 18.0


def test_blocks_are_used_again_when_their_arrays_are_gone_and_not_before(pair: Pair) -> None:
    for _ in range(20):
        received = pair.carry([np.full(5_000, 7.0)])
        assert pair.num_taken == 1
        del received
        assert pair.num_taken == 0
    held = [pair.carry([np.full(5_000, number), "small"]) for number in range(10)]
    assert pair.num_taken == 10
    views = [arrays[0][100:200] for arrays in held]
    del held
    pair.carry(np.zeros(5_000))
    assert [set(view.tolist()) for view in views] == [{number} for number in range(10)]
    del views[3]
    assert pair.num_taken == 9
    assert pair.carry([1, "nothing large", np.zeros(3)])[0] == 1 and pair.num_taken == 9


def test_room_that_is_not_used_is_free_again(pair: Pair) -> None:
    pair.writer.allocate(10_000)
    assert pair.num_taken == 1
    pair.carry("the clip could not be read")
    assert pair.num_taken == 0


def test_a_long_clip_has_a_block_of_its_own(pair: Pair) -> None:
    first, long = pair.writer.allocate(10_000), pair.writer.allocate(BLOCK_BYTES // 4 + 1)
    long[-1] = 3.0
    received = pair.carry([first, long])
    assert len(received[1]) == len(long) and received[1][-1] == 3.0 and pair.num_taken == 2
    del received
    again = pair.carry(pair.writer.allocate(BLOCK_BYTES // 4 + 1))
    assert pair.num_taken == 1 and len(again) == len(long) and count_maps() <= 4


def test_arrays_go_another_way_when_no_block_is_free(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_blocks, "MOST_BLOCKS", 3)
    held = [pair.carry([pair.writer.allocate(5_000), np.full(5_000, number)]) for number in range(8)]
    assert pair.num_taken == 3
    assert all((arrays[1] == number).all() for number, arrays in enumerate(held))


def test_arrays_go_another_way_without_such_memory(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    assert (pair.carry([pair.writer.allocate(5), np.full(50_000, 2)])[1] == 2).all() and pair.num_taken == 0


def send_until_killed(in_use: InUse, connection: Connection) -> None:
    writer = BlockWriter(in_use)
    while True:
        writer.pack(np.full(100_000, 5.0)).send(connection)


def test_nothing_is_left_of_a_killed_writer() -> None:
    descriptors, maps = len(os.listdir("/proc/self/fd")), count_maps()
    for _ in range(5):
        in_use = multiprocessing.RawArray("b", MOST_BLOCKS)
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.Process(target=send_until_killed, args=(in_use, theirs), daemon=True)
        process.start()
        theirs.close()
        reader = BlockReader(in_use, ours)
        received = [reader.receive() for _ in range(4)]
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        with pytest.raises((EOFError, OSError)):
            while True:
                reader.receive()
        assert all((array == 5.0).all() for array in received)  # what is here stays
        ours.close()
        process.close()
        del received, reader, in_use
    assert len(os.listdir("/proc/self/fd")) == descriptors and count_maps() == maps


def make_large(step: int, known: Known, tell: Tell, allocate: Allocate) -> np.ndarray:
    waveform = allocate(50_000)
    waveform[:] = step
    return waveform


def test_a_worker_is_only_so_far_ahead() -> None:
    before, most = count_maps(), 0
    for step, waveform in enumerate(
        make_steps(make_large, range(60), num_workers=1, time_limit_s=60.0, known={}, where=str)
    ):
        assert (waveform == step).all()
        time.sleep(0.005 * (step % 10 == 0))
        most = max(most, count_maps() - before)
    assert 1 <= most <= PREFETCHED_STEPS + 3  # one that is made, and two at which this process may look
