"""Work in processes: every unit comes once and in order, and what hangs or dies does not stop the rest."""

from __future__ import annotations

import os
import time

from voicetextblender.data.guarded import Failure, run_guarded


def work(item: str, unit: int) -> tuple[str, bool]:
    """Units 0 to 2 of each item; some hang, some end the process."""
    if item == f"hang {unit}":
        time.sleep(60)
    if item == f"die {unit}":
        os._exit(3)
    return f"{item}: {unit}", unit < 2


def outcomes(items: list[str], num_workers: int) -> dict[str, list[object]]:
    found: dict[str, list[object]] = {item: [] for item in items}
    for outcome in run_guarded(work, items, num_workers=num_workers, time_limit_s=1.0):
        found[outcome.item].append(outcome.result)
    return found


def test_every_unit_comes_once_and_in_order() -> None:
    items = [str(number) for number in range(100)]
    assert outcomes(items, 2) == {item: [f"{item}: {unit}" for unit in range(3)] for item in items}
    assert outcomes([], 2) == {}


def test_what_hangs_or_dies_is_named_and_left() -> None:
    items = ["a", "hang 0", "die 0", "hang 1", "die 2", "b"]
    late, dead = Failure("took longer than 1 s", is_late=True), Failure("ended the process (exit code 3)")
    start = time.monotonic()
    assert outcomes(items, 1) == {
        "a": ["a: 0", "a: 1", "a: 2"],
        "hang 0": [late],
        "die 0": [dead],
        "hang 1": ["hang 1: 0", late, "hang 1: 2"],
        "die 2": ["die 2: 0", "die 2: 1", dead, "die 2: 3"],
        "b": ["b: 0", "b: 1", "b: 2"],
    }
    assert time.monotonic() - start < 30
