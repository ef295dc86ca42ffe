"""Prompts answered by vLLM, in a process started for them: its engine alone, or its OpenAI server."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PASSES = ("all at once", "one by one")
PORT = 8765
START_LIMIT_S = 600.0


def ask_engine(environment: Path, job: dict[str, Any], folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Replies of an engine in a process of its own, by the names of its passes over the prompts."""
    (folder / "job.json").write_text(json.dumps(job))
    log = folder / "vllm.log"
    command = [str(environment / "bin" / "python"), str(Path(__file__).with_name("vllm_worker.py"))]
    command += [str(folder / "job.json"), str(folder / "replies.json")]
    with log.open("w") as file:
        if subprocess.run(command, env=settings(folder), stdout=file, stderr=file, check=False).returncode:
            raise SystemExit(f"vLLM failed\n{log.read_text()[-4000:]}")
    return dict(zip(PASSES, json.loads((folder / "replies.json").read_text()), strict=True))


def ask_server(environment: Path, job: dict[str, Any], folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Replies of the OpenAI server, one request after the other."""
    name = "trained" if job["lora"] else job["engine"]["model"]
    with serve(environment, job, folder) as url:
        answers = [post(f"{url}/v1/chat/completions", body_of(prompt, name, job)) for prompt in job["prompts"]]
    return {PASSES[1]: [reply_of(answer) for answer in answers]}


def settings(folder: Path) -> dict[str, str]:
    """Environment variables of vLLM's processes."""
    own = {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR", "PYTHONPATH": ""}
    return os.environ | own | {"HF_MODULES_CACHE": str(folder / "modules"), "VLLM_NO_USAGE_STATS": "1"}


@contextmanager
def serve(environment: Path, job: dict[str, Any], folder: Path) -> Iterator[str]:
    """`vllm serve`, running while the block does; yields its address."""
    engine = job["engine"]
    command = [str(environment / "bin" / "vllm"), "serve", engine["model"], "--port", str(PORT), "--trust-remote-code"]
    command += ["--dtype", engine["dtype"], "--enforce-eager", "--max-model-len", str(engine["max_model_len"])]
    command += ["--limit-mm-per-prompt", json.dumps(engine["limit_mm_per_prompt"])]
    if job["lora"]:
        command += [
            "--enable-lora",
            "--max-lora-rank",
            str(job["lora_rank"]),
            "--lora-modules",
            f"trained={job['lora']}",
        ]
    log = folder / "vllm.log"
    with log.open("w") as file:
        process = subprocess.Popen(command, env=settings(folder), stdout=file, stderr=file)
        try:
            url = f"http://127.0.0.1:{PORT}"
            wait_until_healthy(f"{url}/health", process, log)
            yield url
        finally:
            process.terminate()
            process.wait()


def wait_until_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return once `url` answers; exit with the end of the log where it never will."""
    start = time.monotonic()
    while process.poll() is None and time.monotonic() - start < START_LIMIT_S:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    raise SystemExit(f"vLLM's server did not start\n{log.read_text()[-4000:]}")


def body_of(prompt: list[dict[str, Any]], name: str, job: dict[str, Any]) -> dict[str, Any]:
    """A greedy request that asks for token ids too."""
    sampling = {"temperature": 0, "max_tokens": job["max_new_tokens"], "logit_bias": job["logit_bias"]}
    return {"model": name, "messages": prompt, "return_token_ids": True, **sampling}


def reply_of(answer: dict[str, Any]) -> dict[str, Any]:
    """Token ids of the prompt and of the reply."""
    return {"prompt_ids": answer["prompt_token_ids"], "ids": answer["choices"][0]["token_ids"]}


def post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    """The JSON answer to a JSON request."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as response:
        answer: dict[str, Any] = json.loads(response.read())
    return answer
