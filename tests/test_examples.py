"""The examples for clusters: they parse, and start the command that there is."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import yaml

from voicetextblender.train.recipe import load_recipe

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_the_slurm_script_starts_a_launcher_on_every_node(tmp_path: Path) -> None:
    for name, script in {"srun": 'printf "%s\\n" "$@"', "scontrol": "printf 'node7\\nnode8\\n'"}.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{script}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_NNODES": "2"}
    environment |= {"SLURM_GPUS_ON_NODE": "4", "SLURM_JOB_ID": "17"}
    command = ["bash", str(EXAMPLES / "slurm.sh"), "mini", "runs/x", "train.parallel=hsdp"]
    words = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()
    launcher = words[words.index("torchrun") :]
    assert launcher[1:5] == ["--nnodes", "2", "--nproc-per-node", "4"]
    assert launcher[launcher.index("--rdzv-endpoint") + 1] == "node7:29500"
    assert launcher[launcher.index("-m") + 1 :] == shlex.split(
        "voicetextblender train mini --out runs/x train.parallel=hsdp"
    )
    assert load_recipe("mini", ["train.parallel=hsdp"]).train.parallel == "hsdp"
    assert subprocess.run(command[:2], env=environment, capture_output=True, check=False).returncode == 2


def test_the_kubernetes_job_agrees_with_itself() -> None:
    service, job = yaml.safe_load_all((EXAMPLES / "kubernetes.yaml").read_text())
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    arguments = pod["containers"][0]["args"]
    assert f"--nnodes={spec['completions']}" in arguments and spec["completions"] == spec["parallelism"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert pod["subdomain"] == service["metadata"]["name"]
    first_pod = f"{job['metadata']['name']}-0.{pod['subdomain']}"
    assert f"--rdzv-endpoint={first_pod}:29500" in arguments
    module = arguments.index("-m")
    recipe, overrides = arguments[module + 3], arguments[module + 6 :]
    assert arguments[module + 1 : module + 3] == ["voicetextblender", "train"]
    assert load_recipe(recipe, overrides).train.parallel == "hsdp"
