"""Answer a job's prompts with vLLM; runs in vLLM's own environment, started by vllm_client.py.

python vllm_worker.py job.json replies.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest


def main() -> None:
    """Two passes over the prompts: all at once in a cold engine, then one after the other."""
    job: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    lora = LoRARequest("trained", 1, job["lora"]) if job["lora"] else None
    llm = LLM(**job["engine"], **({"enable_lora": True, "max_lora_rank": job["lora_rank"]} if lora else {}))
    bias = {int(token): value for token, value in job["logit_bias"].items()} or None
    sampling = SamplingParams(temperature=0, max_tokens=job["max_new_tokens"], logit_bias=bias)
    together = llm.chat(job["prompts"], sampling, lora_request=lora, use_tqdm=False)
    alone = [llm.chat(prompt, sampling, lora_request=lora, use_tqdm=False)[0] for prompt in job["prompts"]]
    replies = [
        [{"prompt_ids": list(one.prompt_token_ids), "ids": list(one.outputs[0].token_ids)} for one in outputs]
        for outputs in (together, alone)
    ]
    Path(sys.argv[2]).write_text(json.dumps(replies))


if __name__ == "__main__":
    main()
