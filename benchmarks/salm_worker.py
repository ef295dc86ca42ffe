"""NeMo's SALM in its own environment: the worker of `train_step.py`, which starts it.

    python benchmarks/salm_worker.py JOB.pt

The job holds shapes, rows (token ids, supervision mask, clips) and microbatches of row numbers. For every line on the
standard input it runs all microbatches and one update, and prints the seconds and the most memory.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

LOCATOR = "<|audio|>"


def build(job: dict[str, Any]) -> Any:
    """SALM over random weights of the job's shapes: FastConformer, Conformer adapter, LLM with LoRA."""
    from nemo.collections.speechlm2.models.salm import SALM

    encoder, adapter = job["encoder"], job["adapter"]
    conformer = {
        "_target_": "nemo.collections.asr.modules.ConformerEncoder",
        "feat_out": -1,
        "self_attention_model": "rel_pos",
        "att_context_size": [-1, -1],
        "xscaling": False,
        "conv_norm_type": "batch_norm",
        "dropout_emb": 0.0,
        "d_model": encoder["hidden_size"],
    }
    perception = {
        "preprocessor": {
            "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
            "sample_rate": 16_000,
            "normalize": "per_feature",
            "window_size": 0.025,
            "window_stride": 0.01,
            "window": "hann",
            "features": encoder["num_mel_bins"],
            "n_fft": 512,
            "dither": 0.0,
            "pad_to": 0,
        },
        "encoder": conformer
        | {
            "feat_in": encoder["num_mel_bins"],
            "n_layers": encoder["num_hidden_layers"],
            "n_heads": encoder["num_attention_heads"],
            "ff_expansion_factor": encoder["intermediate_size"] // encoder["hidden_size"],
            "conv_kernel_size": encoder["conv_kernel_size"],
            "subsampling": "dw_striding",
            "subsampling_factor": 8,
            "subsampling_conv_channels": encoder["subsampling_conv_channels"],
            "causal_downsampling": False,
            "dropout": 0.0,
            "dropout_att": 0.0,
        },
        "modality_adapter": conformer
        | {
            "feat_in": encoder["hidden_size"],
            "n_layers": adapter["num_layers"],
            "n_heads": adapter["num_heads"],
            "ff_expansion_factor": adapter["feed_forward_factor"],
            "conv_kernel_size": adapter["conv_kernel_size"],
            "subsampling_factor": 1,
            "dropout": adapter["dropout"],
            "dropout_att": adapter["dropout"],
        },
        "output_dim": job["hidden_size"],
    }
    model = SALM(
        {
            "pretrained_llm": job["llm"],
            "pretrained_weights": False,
            "audio_locator_tag": LOCATOR,
            "perception": perception,
            "lora": job["lora"] | {"task_type": "CAUSAL_LM"},
            "freeze_params": [r"^llm\..+$", r"^embed_tokens\..+$"],
            "prevent_freeze_params": [],
            "optimizer": {"_target_": "torch.optim.AdamW", "lr": 1e-4, "fused": True},
        }
    )
    model.log = model.log_dict = lambda *values, **options: None  # the trainer's, which is not there
    return model.train()


def collate(model: Any, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """A microbatch as SALM's dataset makes it: rows padded on the left, clips to the longest, one tag for a clip."""
    from nemo.collections.speechlm2.data.salm_dataset import left_collate_vectors

    clips = [clip for row in rows for clip in row["clips"]]
    return {
        "audios": torch.nn.utils.rnn.pad_sequence(clips, batch_first=True) if clips else torch.zeros(0, 0),
        "audio_lens": torch.tensor([len(clip) for clip in clips], dtype=torch.int64),
        "input_ids": left_collate_vectors([row["token_ids"] for row in rows], padding_value=model.text_pad_id),
        "loss_mask": left_collate_vectors([row["supervision_mask"] for row in rows], padding_value=0).bool(),
    }


def run_step(model: Any, optimizer: torch.optim.Optimizer, batches: list[dict[str, torch.Tensor]], bf16: bool) -> float:
    """All microbatches and one update; the mean of their losses."""
    total = 0.0
    for index, batch in enumerate(batches):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model.training_step(batch, index)["loss"] / len(batches)
        model.backward(loss)
        total += loss.item()
    torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total


def memory_bytes(field: str) -> int:
    """`VmRSS`, memory in use, or `VmHWM`, the most since `forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def forget_peak() -> None:
    """Begin a new peak at what is in use. Linux alone has this."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")


def count(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def main() -> None:
    job = torch.load(sys.argv[1], weights_only=True)
    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what NeMo prints goes where errors go
    model = build(job)
    optimizer = model.configure_optimizers()["optimizer"]
    batches = [collate(model, [job["rows"][number] for number in microbatch]) for microbatch in job["microbatches"]]
    sizes = {"encoder": count(model.perception.encoder), "adapter": count(model.perception.modality_adapter)}
    sizes["adapter"] += count(model.perception.proj)
    sizes["trained"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    print(json.dumps(sizes), file=answers)
    forget_peak()
    rest = memory_bytes("VmRSS")
    for _ in sys.stdin:
        forget_peak()
        start, cpu = time.perf_counter(), time.process_time()
        loss = run_step(model, optimizer, batches, job["bf16"])
        answer = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - start, "loss": loss}
        peak = memory_bytes("VmHWM")
        print(json.dumps(answer | {"peak": peak, "above": peak - rest}), file=answers)


if __name__ == "__main__":
    main()
