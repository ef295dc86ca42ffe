"""Ranks: alone without `torchrun`, and in turn where the first one makes what the others find."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from tests.ranks import run_on_two_ranks
from voicetextblender.errors import RunError
from voicetextblender.train.distributed import Ranks, join_ranks


def work_in_turn(ranks: Ranks, folder: Path) -> None:
    if ranks.is_first:
        time.sleep(0.5)  # without the wait the other rank would be through by now
    for turn in range(2):
        made = folder / f"made{turn}"
        with ranks.first_rank_first():
            found = made.exists()
            time.sleep(0.2 if ranks.is_first else 0.0)
            made.touch()
        assert found is not ranks.is_first, f"turn {turn}, rank {ranks.rank}: found {found}"
    total = ranks.sum(torch.tensor([1.0, ranks.rank]))
    assert total.tolist() == [2.0, 1.0]
    assert ranks.sum_number(1.5 + ranks.rank) == 4.0
    (folder / f"rank{ranks.rank}").touch()


def test_the_first_rank_goes_first(tmp_path: Path) -> None:
    run_on_two_ranks(work_in_turn, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made0", "made1", "rank0", "rank1"]


def test_one_process_is_the_first_and_only_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with join_ranks("cpu") as ranks:
        assert ranks.is_first and ranks.num_ranks == 1 and ranks.device.type == "cpu"
        with ranks.first_rank_first():
            assert ranks.sum(torch.tensor([3])).tolist() == [3]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there are GPUs")
def test_fewer_gpus_than_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    message = (
        r"^train\.device: processes on this machine: {}, GPUs: 0; a GPU for each process\. Set it to cpu, or train on "
        r"another machine\.$"
    )
    with pytest.raises(RunError, match=message.format(1)), join_ranks("cuda"):
        pass
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(RunError, match=message.format(4)), join_ranks("cuda"):
        pass
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(RunError, match=r"GPUs: 2; .* Start torchrun with --nproc-per-node 2\.$"), join_ranks("cuda"):
        pass
