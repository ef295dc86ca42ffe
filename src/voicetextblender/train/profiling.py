"""A trace of some steps: what ran when, on the processor and on the GPU."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.profiler import ProfilerActivity, profile, record_function, supported_activities

from voicetextblender.errors import RunError, describe
from voicetextblender.files import write_atomically


def parse_steps(text: str) -> range:
    """The steps of `10-12` (the last included) or `10`.

    Raises:
        RunError: it is neither.
    """
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    steps = range(int(match[1]), int(match[2] or match[1]) + 1) if match else range(0)
    if not steps:
        raise RunError(describe("--profile", f"'{text}'", "steps such as 10-12, the lower first", "Change it"))
    return steps


class StepTrace:
    """Records some steps of a run and writes them as one file for https://ui.perfetto.dev.

    Args:
        folder: where `steps-10-12.json.gz` is written.
        steps: counted from 0; empty for none.
    """

    def __init__(self, folder: Path, steps: range) -> None:
        self.folder = folder
        self.steps = steps
        self._profile: profile | None = None

    @property
    def path(self) -> Path:
        """The file that is written after the last of the steps."""
        return self.folder / f"steps-{self.steps[0]}-{self.steps[-1]}.json.gz"

    def check(self, first: int, stop: int) -> None:
        """Refuse steps that a run from `first` to `stop` (excluded) does not have.

        Raises:
            RunError: it does not have all of them.
        """
        if self.steps and not (first <= self.steps[0] and self.steps[-1] < stop):
            found = f"steps {self.steps[0]} to {self.steps[-1]}"
            raise RunError(describe("--profile", found, f"this run takes steps {first} to {stop - 1}", "Change it"))

    @contextmanager
    def step(self, step: int) -> Iterator[None]:
        """Around step `step`, which may be one of those that are recorded."""
        if step not in self.steps:
            yield
            return
        if self._profile is None:
            wanted = {ProfilerActivity.CPU, ProfilerActivity.CUDA} & supported_activities()
            self._profile = profile(activities=wanted, profile_memory=True)
            self._profile.start()
        with record_function(f"step {step}"):
            yield
        if step == self.steps[-1]:
            self._profile.stop()
            with write_atomically(self.path) as temporary:
                self._profile.export_chrome_trace(str(temporary))
