"""Two things at once: the body and the work beside it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from voicetextblender.errors import RunError
from voicetextblender.mini.beside import beside

PROGRAM = """
import sys, time
from pathlib import Path
from tests.mini.test_beside import write_for_long
from voicetextblender.mini.beside import beside
if __name__ == "__main__":
    with beside(write_for_long, Path(sys.argv[1])):
        time.sleep(600)
"""


def write(path: Path, text: str) -> None:
    path.write_text(f"{text} {torch.get_num_threads()}")


def fail() -> None:
    sys.exit(3)


def write_for_long(path: Path) -> None:
    path.write_text(str(os.getpid()))
    time.sleep(600)


def test_the_work_is_done_when_the_body_is(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    with beside(write, tmp_path / "out", "done"):
        assert torch.get_num_threads() == 1
    assert (tmp_path / "out").read_text() == "done 1" and torch.get_num_threads() == before


def test_work_that_fails_is_told() -> None:
    with pytest.raises(RunError, match=r"^fail: its process ended with status 3; status 0"), beside(fail):
        pass


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for a process in /proc")
def test_the_work_ends_with_a_program_that_is_killed(tmp_path: Path) -> None:
    path, root = tmp_path / "pid", Path(__file__).resolve().parents[2]
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), *sys.path])}
    process = subprocess.Popen([sys.executable, str(program), str(path)], cwd=root, env=environment)
    wait_until(lambda: path.exists() and path.read_text() != "")
    worker = Path("/proc") / path.read_text()
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: not worker.exists() or "(zombie)" in (worker / "status").read_text())


def wait_until(is_so, seconds: float = 120.0) -> None:  # type: ignore[no-untyped-def]
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
