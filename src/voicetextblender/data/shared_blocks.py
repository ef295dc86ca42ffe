"""Large arrays from a worker to the process that trains, in memory that both see: on the way nothing is copied.

The memory comes in blocks without a name (`memfd_create`): nothing is left of them however a process ends, and they
take no room in /dev/shm, which may be tiny. A block is used again when the last array in it is gone. Where a system has
no such blocks (macOS), and when none is free, arrays go through the connection instead.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import weakref
from collections.abc import MutableSequence
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

BLOCK_BYTES = 1 << 26
"""Of a block, of which only what is written takes memory: 17 minutes of audio at 16 kHz. A longer clip has its own."""
MOST_BLOCKS = 64
"""Of one worker."""
LEAST_BYTES = 1 << 14
"""Smaller arrays go through the connection."""
ALIGNMENT = 64
"""Bytes: arrays begin at lines of the processor's cache."""

InUse = MutableSequence[int]
"""One number per block, seen by both processes: not 0 from when the worker takes a block to the end of its arrays."""
Bytes = NDArray[np.uint8]


class Place(NamedTuple):
    """Where the bytes of an array lie."""

    block: int
    start: int
    stop: int


class Parcel(NamedTuple):
    """An object on its way.

    Args:
        message: its pickle without the arrays that lie in blocks.
        places: of those arrays, in the order of the pickle.
        new_blocks: file descriptor and size of each block that the receiver does not know yet.
    """

    message: bytes
    places: list[Place]
    new_blocks: list[tuple[int, int]]

    def send(self, connection: Connection) -> None:
        """To a `BlockReader`, through a two-way connection, until that has it; called once.

        Raises:
            EOFError, OSError: nobody is at the other end.
        """
        connection.send((self.places, [size for _, size in self.new_blocks]))
        for descriptor, _ in self.new_blocks:
            send_handle(connection, descriptor, os.getppid())
            os.close(descriptor)
        connection.send_bytes(self.message)
        connection.recv_bytes()


class BlockWriter:
    """The worker's side. Not for several threads at once.

    Args:
        in_use: zeros at first, `MOST_BLOCKS` of them.
    """

    def __init__(self, in_use: InUse) -> None:
        self._in_use = in_use
        self._blocks: list[Bytes] = []
        self._new: list[tuple[int, int]] = []
        self._taken: dict[int, int] = {}
        """By number of each block that the next parcel has, how many of its bytes are given away."""

    def allocate(self, num_samples: int) -> np.ndarray:
        """Room for a waveform [samples], float32, with anything in it; what is put there is packed without a copy."""
        place = self._reserve(num_samples * np.dtype(np.float32).itemsize)
        return np.empty(num_samples, np.float32) if place is None else self._bytes(place).view(np.float32)

    def pack(self, thing: Any) -> Parcel:
        """The parcel that is `thing`; what was allocated belongs to it, and room that it does not use is free again."""
        places: list[Place] = []

        def keep_in_message(buffer: pickle.PickleBuffer) -> bool:
            place = self._put(np.frombuffer(buffer.raw(), np.uint8))
            if place is not None:
                places.append(place)
            return place is None

        message = pickle.dumps(thing, protocol=5, buffer_callback=keep_in_message)
        for unused in self._taken.keys() - {place.block for place in places}:
            self._in_use[unused] = 0
        self._taken.clear()
        new, self._new = self._new, []
        return Parcel(message, places, new)

    def _put(self, values: Bytes) -> Place | None:
        """Where these bytes lie, copied to there if they do not yet; None if they better go another way."""
        if values.size < LEAST_BYTES:
            return None
        place = self._find(values)
        if place is None and (place := self._reserve(values.size)) is not None:
            self._bytes(place)[:] = values
        return place

    def _find(self, values: Bytes) -> Place | None:
        for block in self._taken:
            start = values.ctypes.data - self._blocks[block].ctypes.data
            if 0 <= start <= len(self._blocks[block]) - values.size:
                return Place(block, start, start + values.size)
        return None

    def _reserve(self, num_bytes: int) -> Place | None:
        """Room in a block; None where there is no free one."""
        fitting = (block for block, start in self._taken.items() if start + num_bytes <= len(self._blocks[block]))
        block = next(fitting, None)
        if block is None and (block := self._take_block(num_bytes)) is None:
            return None
        start = self._taken.get(block, 0)
        self._taken[block] = -(-(start + num_bytes) // ALIGNMENT) * ALIGNMENT
        return Place(block, start, start + num_bytes)

    def _take_block(self, num_bytes: int) -> int | None:
        """A free block with so much room, made if there is none."""
        for block, content in enumerate(self._blocks):
            if not self._in_use[block] and len(content) >= num_bytes:
                break
        else:
            block = len(self._blocks)
            if block == MOST_BLOCKS or not hasattr(os, "memfd_create"):
                return None
            self._make_block(max(BLOCK_BYTES, num_bytes))
        self._in_use[block] = 1
        return block

    def _make_block(self, num_bytes: int) -> None:
        descriptor = os.memfd_create("vtb-batch")
        os.ftruncate(descriptor, num_bytes)
        self._blocks.append(_map(descriptor, num_bytes))
        self._new.append((descriptor, num_bytes))

    def _bytes(self, place: Place) -> Bytes:
        return self._blocks[place.block][place.start : place.stop]


class BlockReader:
    """The side of the process that trains.

    Args:
        in_use: those of the writer.
        connection: the end of a two-way connection at whose other end parcels are sent.
    """

    def __init__(self, in_use: InUse, connection: Connection) -> None:
        self._in_use = in_use
        self._connection = connection
        self._blocks: list[Bytes] = []

    def receive(self) -> Any:
        """The thing that was packed. Its large arrays lie where the worker put them, and may be written to.

        Raises:
            EOFError: the other end is closed.
            OSError: the same, in the middle of a parcel.
        """
        places, sizes = self._connection.recv()
        for size in sizes:
            descriptor = recv_handle(self._connection)
            self._blocks.append(_map(descriptor, size))
            os.close(descriptor)
        message = self._connection.recv_bytes()
        with contextlib.suppress(OSError):  # it has sent its last and is gone
            self._connection.send_bytes(b"")
        blocks = {block: self._lend(block) for block in {place.block for place in places}}
        return pickle.loads(message, buffers=[blocks[block][start:stop] for block, start, stop in places])

    def _lend(self, block: int) -> Bytes:
        """A view of a block that frees it when nothing refers to it any more."""
        view = np.frombuffer(self._blocks[block].data, np.uint8)
        weakref.finalize(view, self._in_use.__setitem__, block, 0).atexit = False
        return view


def _map(descriptor: int, num_bytes: int) -> Bytes:
    return np.frombuffer(mmap.mmap(descriptor, num_bytes), np.uint8)
