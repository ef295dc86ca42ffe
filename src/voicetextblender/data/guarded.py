"""Work in processes that may hang or die: what is stuck is named and left, everything else goes on."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, NamedTuple, TypeVar

ItemT = TypeVar("ItemT")
CHUNK_SIZE = 32
"""Items handed to a process at once."""

Task = Callable[[Any, int], tuple[Any, bool]]
"""Takes an item and the number of one of its units, from 0; gives a picklable result, and whether a unit follows.

Must not remember anything from one unit to the next: after a failure another process goes on. May be asked for one unit
beyond the last. Must be picklable where processes are spawned.
"""


class Failure(NamedTuple):
    """What a unit gives instead of a result: it took too long, or its process died."""

    found: str
    is_late: bool = False


class Outcome(NamedTuple, Generic[ItemT]):
    """One unit of one item, and what came of it."""

    item: ItemT
    unit: int
    result: Any
    is_last: bool
    """Whether the item is done with; True for a failure of its first unit."""


@dataclass
class _Worker:
    """A process and the units that it was given and has not finished."""

    process: BaseProcess
    connection: Connection
    items: Sequence[Any]
    place: int
    unit: int
    since: float


def run_guarded(
    task: Task, items: Iterable[ItemT], *, num_workers: int, time_limit_s: float
) -> Iterator[Outcome[ItemT]]:
    """Every unit of every item, in the order of the units of an item, items as they are done.

    Args:
        num_workers: processes, at least 1.
        time_limit_s: of one unit; then its process is killed, and another goes on with the next unit.
    """
    assert num_workers >= 1 and time_limit_s > 0
    waiting = iter(items)
    workers: list[_Worker] = []
    try:
        while True:
            while len(workers) < num_workers and (chunk := list(islice(waiting, CHUNK_SIZE))):
                workers.append(_start(task, chunk, 0))
            if not workers:
                return
            ready = wait([worker.connection for worker in workers], timeout=_time_left(workers, time_limit_s))
            for worker in list(workers):
                if worker.connection in ready:
                    yield from _receive(task, worker, workers, waiting)
                elif time.monotonic() - worker.since > time_limit_s and not worker.connection.poll(0):
                    yield from _give_up(
                        task, worker, workers, Failure(f"took longer than {time_limit_s:g} s", is_late=True)
                    )
    finally:
        for worker in workers:
            _stop(worker)


def _start(task: Task, items: Sequence[Any], unit: int) -> _Worker:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=_serve, args=(task, theirs), daemon=True)
    process.start()
    theirs.close()
    worker = _Worker(process, ours, (), 0, 0, 0.0)
    _hand_over(worker, items, unit)
    return worker


def _hand_over(worker: _Worker, items: Sequence[Any], unit: int) -> None:
    worker.items, worker.place, worker.unit, worker.since = items, 0, unit, time.monotonic()
    with suppress(OSError):  # it died meanwhile: told when its answer is read
        worker.connection.send((items, unit))


def _receive(task: Task, worker: _Worker, workers: list[_Worker], waiting: Iterator[Any]) -> Iterator[Outcome[Any]]:
    """One result of a worker; with the last of its items it gets more, or is let go."""
    try:
        result, has_more = worker.connection.recv()
    except (EOFError, OSError):
        worker.process.join()
        died = Failure(f"ended the process (exit code {worker.process.exitcode})")
        yield from _give_up(task, worker, workers, died)
        return
    yield Outcome(worker.items[worker.place], worker.unit, result, not has_more)
    worker.unit = worker.unit + 1 if has_more else 0
    worker.place += not has_more
    worker.since = time.monotonic()
    if worker.place == len(worker.items):
        if chunk := list(islice(waiting, CHUNK_SIZE)):
            _hand_over(worker, chunk, 0)
        else:
            workers.remove(worker)
            _stop(worker)


def _give_up(task: Task, worker: _Worker, workers: list[_Worker], failure: Failure) -> Iterator[Outcome[Any]]:
    """The unit at which a worker is stuck counts as failed; a new worker goes on behind it."""
    workers.remove(worker)
    _stop(worker)
    is_last = worker.unit == 0  # what the others are is not known then
    yield Outcome(worker.items[worker.place], worker.unit, failure, is_last)
    rest = worker.items[worker.place + is_last :]
    if rest:
        workers.append(_start(task, rest, 0 if is_last else worker.unit + 1))


def _stop(worker: _Worker) -> None:
    worker.process.kill()
    worker.process.join()
    worker.connection.close()


def _time_left(workers: Sequence[_Worker], time_limit_s: float) -> float:
    """Seconds until the first unit has had its time, and a little more."""
    return max(0.0, min(worker.since for worker in workers) + time_limit_s - time.monotonic()) + 0.01


def _serve(task: Task, connection: Connection) -> None:
    """What a process does: units one after another, a message for each, until nobody listens."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt goes to the first process, which ends the others
    parent = multiprocessing.parent_process()
    assert parent is not None
    while connection in wait([connection, parent.sentinel]):
        items, unit = connection.recv()
        for item in items:
            has_more = True
            while has_more:
                result, has_more = task(item, unit)
                connection.send((result, has_more))
                unit += 1
            unit = 0
