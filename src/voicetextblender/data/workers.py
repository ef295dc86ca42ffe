"""Steps made by a thread or by processes that may hang or die; the draw at which one does is given up, the step is not.

Each notes in shared memory at which draw it is, which costs nothing. Whoever waits for a step looks there only when it
does not come: a draw that takes too long, or ends its process, becomes known as unreadable, and the step is made once
more without it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import queue
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, MutableSequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Protocol

import torch

from voicetextblender.audio.waveform import Allocate, new_waveform
from voicetextblender.data.measure import DIED, STUCK
from voicetextblender.data.reading import Cause, Key, Known, Tell
from voicetextblender.data.shared_blocks import MOST_BLOCKS, BlockReader, BlockWriter, InUse, Parcel
from voicetextblender.errors import DataError, VoiceTextBlenderError, describe
from voicetextblender.processes import end_with_parent

PREFETCHED_STEPS = 2
"""Steps that each process holds ready, beside the one that it makes."""

Make = Callable[[int, Known, Tell, Allocate], Any]
"""Makes a step; picklable where processes are spawned. What it gives must be cheap to pickle but for large arrays."""


class _Place:
    """The draw at which a worker is, and since when; numbers that two processes or threads can see."""

    def __init__(self, numbers: MutableSequence[float]) -> None:
        self._numbers = numbers

    def tell(self, key: Key) -> None:
        self.leave()
        self._numbers[1], self._numbers[2], self._numbers[3] = key
        self._numbers[0] = time.monotonic()

    def leave(self) -> None:
        self._numbers[0] = 0.0

    def look(self) -> tuple[Key | None, float]:
        """The draw and the seconds that it has taken; none between two steps."""
        since, source, epoch, row = self._numbers
        if not since or self._numbers[0] != since:
            return None, 0.0
        return (int(source), int(epoch), int(row)), time.monotonic() - since


class _Ended(Exception):
    """A process is gone."""


class _Lost(NamedTuple):
    """The draw with which a worker came to nothing."""

    key: Key
    reason: str
    found: str


class _Worker(Protocol):
    """Makes steps one after the other."""

    place: _Place

    def receive(self, timeout_s: float) -> Any:
        """The next step, or the error that it gave.

        Raises:
            TimeoutError: it is not ready yet.
            _Ended: it will never be.
        """

    def stop(self) -> None:
        """End it, or turn away from it."""


def make_steps(
    make: Make,
    steps: range,
    *,
    num_workers: int,
    time_limit_s: float,
    known: Known,
    where: Callable[[Key], str],
) -> Iterator[Any]:
    """What `make` gives for each step, in order.

    Args:
        num_workers: processes; 0 makes each step when it is asked for, in a thread.
        time_limit_s: of one draw's row, and of each of its clips.
        known: draws not to be tried.
        where: the place of a draw's row, for errors.

    Raises:
        VoiceTextBlenderError: what `make` raised.
        DataError: a process ended while it read nothing.
    """
    known = dict(known)
    stride = max(1, num_workers)

    def start(first: int) -> _Worker:
        rest = range(first, steps.stop, stride)
        return _Process(make, rest, known) if num_workers else _Thread(make, rest, known)

    workers = [start(first) for first in steps[:stride]]
    try:
        for number, step in enumerate(steps):
            slot = number % stride
            while isinstance(made := _wait(workers[slot], time_limit_s), _Lost):
                expected, fix = "a clip is read and decoded at once", "Make its file again, or remove it"
                text = describe(where(made.key), made.found, expected, fix)
                known[made.key] = Cause(made.reason, text)
                workers[slot].stop()
                workers[slot] = start(step)
            if isinstance(made, BaseException):
                raise made
            yield made
    finally:
        for worker in workers:
            worker.stop()


def _wait(worker: _Worker, time_limit_s: float) -> Any:
    """The next step of a worker, or what it was lost with."""
    timeout_s = time_limit_s
    while True:
        try:
            return worker.receive(timeout_s)
        except TimeoutError:
            key, taken_s = worker.place.look()
            if key is not None and taken_s >= time_limit_s:
                return _Lost(key, STUCK, f"it took longer than data.clip_timeout_s, {time_limit_s:g} s")
            timeout_s = time_limit_s - taken_s
        except _Ended as error:
            key, _ = worker.place.look()
            if key is not None:
                return _Lost(key, DIED, f"reading it ended the process ({error})")
            found, fix = f"ended ({error})", "Look for a lack of memory, or take fewer data.num_workers"
            raise DataError(describe("a loader process", found, "it runs until the last step", fix)) from None


class _Thread:
    """Steps made in this process. One that hangs is left alone: it holds the memory of one step."""

    def __init__(self, make: Make, steps: range, known: Known) -> None:
        self.place = _Place([0.0] * 4)
        self._make, self._steps, self._known = make, iter(steps), known
        self._made: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._is_busy = False

    def receive(self, timeout_s: float) -> Any:
        if not self._is_busy:
            threading.Thread(target=self._run, args=(next(self._steps),), daemon=True).start()
            self._is_busy = True
        try:
            made = self._made.get(timeout=timeout_s)
        except queue.Empty:
            raise TimeoutError from None
        self._is_busy = False
        return made

    def stop(self) -> None:
        pass

    def _run(self, step: int) -> None:
        try:
            self._made.put(self._make(step, self._known, self.place.tell, new_waveform))
        except BaseException as error:
            self._made.put(error)
        self.place.leave()


class _Process:
    """Steps made ahead in a process of its own."""

    def __init__(self, make: Make, steps: range, known: Known) -> None:
        numbers = multiprocessing.RawArray("d", 4)
        self.place = _Place(numbers)
        in_use = multiprocessing.RawArray("b", MOST_BLOCKS)
        self._connection, theirs = multiprocessing.Pipe()
        self._reader = BlockReader(in_use, self._connection)
        arguments = (make, steps, dict(known), numbers, in_use, theirs)
        self._process = multiprocessing.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()

    def receive(self, timeout_s: float) -> Any:
        if not self._connection.poll(timeout_s):
            raise TimeoutError
        try:
            return self._reader.receive()
        except (EOFError, OSError):
            self._process.join()
            raise _Ended(f"exit code {self._process.exitcode}") from None

    def stop(self) -> None:
        self._process.kill()
        self._process.join()
        self._connection.close()


def _serve(make: Make, steps: range, known: Known, numbers: Any, in_use: InUse, connection: Connection) -> None:
    """What a process does: makes its steps, hands them to a thread that sends them, and ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt goes to the first process, which ends the others
    torch.set_num_threads(1)
    end_with_parent()
    place = _Place(numbers)
    blocks = BlockWriter(in_use)
    ready: queue.Queue[Parcel] = queue.Queue(PREFETCHED_STEPS - 1)
    sender = threading.Thread(target=_send, args=(ready, connection, len(steps)))
    sender.start()
    for step in steps:
        try:
            made = make(step, known, place.tell, blocks.allocate)
        except VoiceTextBlenderError as error:
            made = error
        except Exception:  # a mistake of ours; its own kind may not pickle
            made = RuntimeError(f"in a loader process:\n{traceback.format_exc()}")
        place.leave()
        ready.put(blocks.pack(made))
    sender.join()


def _send(ready: queue.Queue[Parcel], connection: Connection, num_steps: int) -> None:
    for _ in range(num_steps):
        with contextlib.suppress(EOFError, OSError):  # nobody waits any more
            ready.get().send(connection)
