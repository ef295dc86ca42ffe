"""The paper's model on one GPU: step time, share of the GPU's peak (MFU), memory, and the largest microbatch.

    python benchmarks/gpu_train.py
    python benchmarks/gpu_train.py --tiny          # small shapes, also without a GPU

Random weights at the paper's sizes (Canary-1B's encoder, 609 million parameters; two Conformer layers; Gemma 2B with
LoRA of rank 32) learn from random clips and tokens of real lengths, in bf16, with our own step: packed and padded rows,
with and without torch.compile. It needs torch 2.11, transformers 5.17 and peft, and neither audio libraries nor any
download; `gpu_packages.sh` collects the small packages that such a machine may lack.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

if "--packages" in sys.argv:  # what is installed goes first
    sys.path.append(sys.argv[sys.argv.index("--packages") + 1])

from voicetextblender.audio.front_end import open_front_end
from voicetextblender.audio.lengths import TokenCount
from voicetextblender.batch import Batch, collate
from voicetextblender.chat.render import Rendered
from voicetextblender.data.packing import pack, pack_alone
from voicetextblender.model.build import Composite, ModelConfig
from voicetextblender.model.skeleton import Skeleton, build_skeleton
from voicetextblender.model.trainable import trainable_parameters
from voicetextblender.train.compiling import no_silent_fallback
from voicetextblender.train.config import TrainConfig
from voicetextblender.train.distributed import Ranks
from voicetextblender.train.find_batch import GIB, SAFE_SHARE, Trial, is_out_of_memory, run_worst_steps, search
from voicetextblender.train.flops import count_flops, peak_flops
from voicetextblender.train.optim import build_optimizer
from voicetextblender.train.parallel import ParallelModel, prepare_model
from voicetextblender.train.step import run_step
from voicetextblender.train.worst_batch import describe_batch, sizes, worst_batches
from voicetextblender.units import SAMPLING_RATE, seconds_to_samples

SEED = 0
TOKENS_PER_SECOND = 3.3
"""Of a reply that writes down what a clip says."""


@dataclass(frozen=True)
class Limits:
    """Sizes of the recipe `voicetextblender-3b`."""

    conversations_per_step: int = 64
    max_tokens_per_microbatch: int = 4096
    pack: bool = True
    max_conversation_tokens: int = 4096
    max_clip_s: float = 40.0


TINY = Limits(conversations_per_step=6, max_tokens_per_microbatch=256, max_conversation_tokens=128, max_clip_s=4.0)


@dataclass(frozen=True)
class Conversation:
    """A rendered conversation of random tokens, its clips and their encoder frames."""

    rendered: Rendered
    clips: list[np.ndarray]
    num_frames: list[int]

    @property
    def num_tokens(self) -> int:
        return len(self.rendered.token_ids)


def main() -> None:
    """Run as a script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="small shapes and few steps, to see that everything runs")
    parser.add_argument("--steps", type=int, default=8, help="steps that are timed; the median counts")
    parser.add_argument("--budget", type=int, help="tokens of a microbatch, in place of the recipe's 4,096")
    parser.add_argument("--conversations", type=int, help="conversations of a step, in place of 64")
    parser.add_argument("--compile", choices=("off", "on", "both"), default="both", help="torch.compile of the layers")
    parser.add_argument("--no-search", action="store_true", help="do not look for the largest microbatch")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--packages", help="folder of packages to use where the machine has none of its own")
    arguments = parser.parse_args()
    if arguments.device == "cpu" and not arguments.tiny:
        parser.error("there is no GPU here; --tiny runs everything at small sizes without one")
    device = torch.device(arguments.device)
    limits = choose_limits(arguments)
    print_machine(device)
    tried = {"off": [False], "on": [True], "both": [False, True]}[arguments.compile]
    print(
        f"\n{'':22}{'step s':>9}{'MFU':>8}{'tokens/s':>10}{'speech h/GPU h':>16}{'microbatches':>14}"
        f"{'padding':>9}{'peak GiB':>10}{'first step s':>14}{'loss':>8}"
    )
    for compiles in tried:
        bench = Bench(device, compiles, arguments.tiny)
        conversations = list(draw_conversations(bench.skeleton, limits))
        for packs in (True, False):
            bench.report(conversations, limits.max_tokens_per_microbatch, packs, arguments.steps)
        if not arguments.no_search and compiles == tried[0]:
            search_batch(bench, limits)
        del bench
        free()


def choose_limits(arguments: argparse.Namespace) -> Limits:
    """The sizes of the recipe, or those that were asked for."""
    given = TINY if arguments.tiny else Limits()
    budget = arguments.budget or given.max_tokens_per_microbatch
    return Limits(
        conversations_per_step=arguments.conversations or given.conversations_per_step,
        max_tokens_per_microbatch=budget,
        max_conversation_tokens=min(budget, given.max_conversation_tokens),
        max_clip_s=given.max_clip_s,
    )


def print_machine(device: torch.device) -> None:
    import peft
    import transformers

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "processor"
    print(f"{name}; torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}")


class Bench:
    """The model on a device, with its optimizer, and what a step costs."""

    def __init__(self, device: torch.device, compiles: bool, is_tiny: bool) -> None:
        self.device, self.compiles = device, compiles
        torch.manual_seed(SEED)
        model_config = tiny_config() if is_tiny else ModelConfig(llm="gemma-2b-it", speech_encoder="canary-1b")
        self.skeleton = build_skeleton(model_config, str(device))
        front_end = open_front_end(self.skeleton.model.config.front_end_config)
        nothing: Any = None  # tokens are random: no tokenizer, no renderer
        self.composite = Composite(self.skeleton.model, nothing, nothing, front_end, model_config)
        self.config = TrainConfig(steps=1, precision="bf16", compile=compiles)
        ranks = Ranks(0, 1, device)
        self.parallel: ParallelModel = prepare_model(self.composite, self.config, ranks, packs=True)
        self.parameters = trainable_parameters(self.skeleton.model.train())
        self.optimizer = build_optimizer(self.parameters, self.config.optim)
        self.flops = count_flops(self.skeleton.model)

    def report(self, conversations: list[Conversation], budget: int, packs: bool, num_steps: int) -> None:
        """Time steps over the same conversations and print a line."""
        batches = make_batches(conversations, budget, packs)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        first, loss = self.step(batches, 0)
        self.step(batches, 1)
        seconds = []
        for step in range(2, 2 + num_steps):
            taken, loss = self.step(batches, step)
            seconds.append(taken)
        step_s = statistics.median(seconds)
        operations = self.flops.of(
            [one.num_tokens for one in conversations],
            [frames for one in conversations for frames in one.num_frames],
            sum(batch.num_supervised for batch in batches),
        )
        peak = peak_flops(self.device)
        mfu = f"{operations / step_s / peak:.1%}" if peak else f"{operations / step_s / 1e9:.0f}G/s"
        tokens = sum(batch.num_tokens for batch in batches)
        audio_s = sum(batch.num_samples for batch in batches) / SAMPLING_RATE
        padding = 1 - tokens / sum(batch.token_ids.numel() for batch in batches)
        peak_gib = torch.cuda.max_memory_allocated(self.device) / GIB if self.device.type == "cuda" else 0.0
        name = f"{'packed' if packs else 'padded'}{', compiled' if self.compiles else ''}"
        print(
            f"{name:22}{step_s:9.3f}{mfu:>8}{tokens / step_s:10,.0f}{audio_s / step_s:16,.0f}{len(batches):14}"
            f"{padding:9.1%}{peak_gib:10.1f}{first:14.1f}{loss:8.3f}",
            flush=True,
        )

    def step(self, batches: list[Batch], step: int) -> tuple[float, float]:
        """Seconds and loss of one step of our training; it ends by reading the loss, so the GPU is done."""
        start = time.perf_counter()
        learned = list(self.parameters.values())
        with no_silent_fallback():
            result = run_step(self.composite, self.optimizer, learned, batches, self.config, self.parallel, SEED, step)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - start, result.loss


def tiny_config() -> ModelConfig:
    """Shapes that run anywhere: those of two small folders without weights."""
    import tempfile
    from pathlib import Path

    from transformers import GemmaConfig, ParakeetEncoderConfig

    folder = Path(tempfile.mkdtemp())
    heads = {"num_hidden_layers": 2, "num_attention_heads": 2}
    GemmaConfig(
        vocab_size=512, hidden_size=64, intermediate_size=128, num_key_value_heads=1, head_dim=32, **heads
    ).save_pretrained(folder / "llm")
    ParakeetEncoderConfig(
        hidden_size=32, intermediate_size=64, subsampling_conv_channels=8, conv_kernel_size=5, **heads
    ).save_pretrained(folder / "encoder")
    adapter = {"kind": "conformer", "num_heads": 2}
    return ModelConfig.model_validate(
        {"llm": str(folder / "llm"), "speech_encoder": str(folder / "encoder"), "adapter": adapter, "lora": {"rank": 4}}
    )


def draw_conversations(skeleton: Skeleton, limits: Limits) -> Iterator[Conversation]:
    """One in twenty of text alone, as in the authors' blend; the others have a clip, log-normal, median 8 s."""
    random = np.random.default_rng(SEED)
    vocab_size = skeleton.model.config.text_config.vocab_size
    scale = limits.max_clip_s / 40
    for index in range(limits.conversations_per_step):
        prompt = int(random.integers(16, 48))
        if index % 20 == 0:
            reply = int(
                np.clip(random.lognormal(np.log(300 * scale), 0.7), 16, limits.max_conversation_tokens - prompt)
            )
            yield make_conversation(random, vocab_size, prompt, reply, skeleton, 0)
        else:
            clip_s = float(np.clip(random.lognormal(np.log(8 * scale), 0.7), 1, limits.max_clip_s))
            reply = max(4, int(clip_s * TOKENS_PER_SECOND * random.uniform(0.7, 1.3)))
            yield make_conversation(random, vocab_size, prompt, reply, skeleton, seconds_to_samples(clip_s))


def make_conversation(
    random: np.random.Generator, vocab_size: int, prompt: int, reply: int, skeleton: Skeleton, num_samples: int
) -> Conversation:
    """A prompt, audio where there are samples, and a reply, which is supervised."""
    count: TokenCount = skeleton.num_audio_tokens
    num_audio_tokens = int(count(num_samples)) if num_samples else 0
    token_ids = random.integers(0, vocab_size, prompt + num_audio_tokens + reply)
    mask = np.arange(len(token_ids)) >= prompt + num_audio_tokens
    clips = [random.normal(0, 0.1, num_samples).astype(np.float32)] if num_samples else []
    spans = ((prompt, num_audio_tokens),) if num_samples else ()
    frames = [int(skeleton.num_encoder_frames(num_samples))] if num_samples else []
    return Conversation(Rendered(token_ids, mask, spans), clips, frames)


def make_batches(conversations: list[Conversation], budget: int, packs: bool) -> list[Batch]:
    """The microbatches of a step as the plan packs them, or each conversation in a row of its own, by length."""
    num_tokens = np.array([one.num_tokens for one in conversations])
    num_audio = np.array([sum(length for _, length in one.rendered.audio_spans) for one in conversations])
    microbatches = pack(num_tokens, num_audio, budget) if packs else pack_alone(num_tokens, budget)
    return [collate_rows([[conversations[i] for i in row] for row in rows]) for rows in microbatches]


def collate_rows(rows: list[list[Conversation]]) -> Batch:
    flat = [one for row in rows for one in row]
    keys = [[index] * len(one.clips) for index, one in enumerate(flat)]
    rendered, clips = [one.rendered for one in flat], [one.clips for one in flat]
    return collate(rendered, clips, keys, ["joint"] * len(flat), [len(row) for row in rows])


def search_batch(bench: Bench, limits: Limits) -> None:
    """Print the largest microbatch whose worst case fits on the GPU; at most four microbatches' worth without one."""
    total = torch.cuda.mem_get_info(bench.device)[1] * SAFE_SHARE if bench.device.type == "cuda" else None
    print("\nworst microbatches that the plan allows")

    def try_budget(tokens: int) -> Trial:
        trial = measure(bench, Limits(**(vars(limits) | {"max_tokens_per_microbatch": tokens})), total)
        peak = "" if trial.peak is None else f"{trial.peak / GIB:.1f} GiB"
        print(f"{tokens:9,}  {trial.shape:36}{peak:>10}  {'fits' if trial.fits else 'too large'}", flush=True)
        return trial

    best = max(trial.tokens for trial in search(try_budget, list(sizes(limits))) if trial.fits)
    print(f"found: data.max_tokens_per_microbatch={best}\n")


def measure(bench: Bench, limits: Limits, total: float | None) -> Trial:
    """Run the worst microbatches of these limits; a lack of memory is an answer."""
    batches = worst_batches(limits, bench.skeleton.num_audio_tokens)
    shape, seconds, peak = describe_batch(batches["audio"]), None, None
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(bench.device)
    try:
        seconds = run_worst_steps(bench.composite, list(batches.values()), bench.config, bench.device)
        peak = torch.cuda.max_memory_reserved(bench.device) if bench.device.type == "cuda" else 0
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    bench.skeleton.model.zero_grad(set_to_none=True)
    free()
    return Trial(limits.max_tokens_per_microbatch, shape, peak, seconds, peak is not None and peak <= (total or peak))


def free() -> None:
    """Give back what is no longer used."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
