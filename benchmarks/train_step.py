"""Our training step against NeMo's SALM and a plain padded loop: examples a second, and the most memory.

    sh benchmarks/nemo_environment.sh /tmp/nemo-env
    python benchmarks/train_step.py --nemo-python /tmp/nemo-env/bin/python

Three processes train models of the same shapes (random weights) on the same conversations of one step, each with the
batches that its tool makes within the same budget of padded tokens, and one update of fused AdamW at the end:

- ours: clips in groups of like length, conversations packed side by side, the head at supervised positions alone;
- SALM: rows sorted by length over the whole step, as its buckets do at best, padded on the left;
- plain: rows in the order of the blend, padded; labels everywhere and the whole logits, as the library's own loss has.

They run in turn, one at a time, and the medians count. Examples a second are of processor time, which other programs on
the machine disturb less than the clock, beside the ratio by the clock. Only ratios within one run mean something.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from salm_worker import count, forget_peak, memory_bytes
from transformers import ParakeetEncoder, ParakeetEncoderConfig

from voicetextblender.audio.front_end import extract_features
from voicetextblender.audio.waveform import write_waveform
from voicetextblender.batch import Batch
from voicetextblender.data.loader import Loader, build_loader
from voicetextblender.data.measure import Geometry
from voicetextblender.model.build import Composite, build_composite
from voicetextblender.model.trainable import trainable_parameters
from voicetextblender.train.config import precision_context
from voicetextblender.train.distributed import Ranks
from voicetextblender.train.optim import build_optimizer
from voicetextblender.train.parallel import parallelise
from voicetextblender.train.recipe import Recipe
from voicetextblender.train.step import run_step

ROOT = Path(__file__).resolve().parents[1]
CONTESTANTS = ("ours", "SALM", "plain")
ENCODER = {
    "hidden_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 768,
    "subsampling_conv_channels": 32,
    "conv_kernel_size": 9,
    "num_mel_bins": 80,
}
NO_DROPOUT = {"dropout": 0.0, "activation_dropout": 0.0, "attention_dropout": 0.0, "layerdrop": 0.0}
ADAPTER = {"num_layers": 2, "num_heads": 4, "feed_forward_factor": 4, "conv_kernel_size": 9, "dropout": 0.1}
LLM = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "initializer_range": 0.02,
}
LORA = {"rank": 16, "alpha": 32}
WORDS = ("say", "it", "again", "please", "what", "is", "three", "plus", "five", "eight", "anna", "buys", "apples")


def main() -> int:
    """Run as a script; exit status 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nemo-python", help="interpreter of NeMo's environment; without it SALM does not take part")
    parser.add_argument(
        "--vocab", type=int, nargs="+", default=[4_096, 32_000, 256_000], help="sizes of the vocabulary"
    )
    parser.add_argument("--conversations", type=int, default=48, help="conversations of the step")
    parser.add_argument("--budget", type=int, default=2048, help="padded tokens of a microbatch")
    parser.add_argument("--repeats", type=int, default=5, help="times that each is timed; the median counts")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="bf16 is under autocast")
    parser.add_argument("--threads", type=int, default=1, help="threads that compute")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)  # a contestant and its job: the script itself
    arguments = parser.parse_args()
    if arguments.work:
        work(*arguments.work)
        return 0
    met = [compete(arguments, vocab_size) for vocab_size in arguments.vocab]
    return 0 if all(met) else 1


def compete(arguments: argparse.Namespace, vocab_size: int) -> bool:
    """Time all contestants in turn and print a table; true where the goals are met."""
    contestants = [name for name in CONTESTANTS if name != "SALM" or arguments.nemo_python]
    with tempfile.TemporaryDirectory() as folder:
        job = write_job(Path(folder), arguments, vocab_size)
        workers = {name: start(name, job, arguments) for name in contestants}
        sizes = {name: json.loads(ask(worker)) for name, worker in workers.items()}
        ask_all = [(repeat, name) for repeat in range(arguments.repeats + 1) for name in order(contestants, repeat)]
        answers: dict[str, list[dict[str, float]]] = {name: [] for name in contestants}
        for repeat, name in ask_all:
            answer = json.loads(ask(workers[name], "step\n"))
            if repeat:  # the first round warms up
                answers[name].append(answer)
        for worker in workers.values():
            worker.stdin.close()
            worker.wait()
    return report(arguments, vocab_size, sizes, answers)


def order(contestants: Sequence[str], repeat: int) -> Sequence[str]:
    """There and back, so that what slows the machine meets all alike."""
    return contestants[:: 1 if repeat % 2 else -1]


def start(name: str, job: Path, arguments: argparse.Namespace) -> subprocess.Popen[str]:
    """The process of a contestant."""
    command = [sys.executable, __file__, "--work", name, str(job)]
    if name == "SALM":
        command = [arguments.nemo_python, str(Path(__file__).with_name("salm_worker.py")), str(job)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    if os.environ.get("SHOW_WORKERS"):
        del pipes["stderr"]
    return subprocess.Popen(command, text=True, bufsize=1, **pipes)


def ask(worker: subprocess.Popen[str], question: str = "") -> str:
    """Write a line to a worker and wait for its answer."""
    assert worker.stdin and worker.stdout
    worker.stdin.write(question)
    worker.stdin.flush()
    if not (line := worker.stdout.readline()):
        sys.exit(f"a worker ended: {' '.join(map(str, worker.args))}\nSHOW_WORKERS=1 shows what it says.")
    return line


def report(
    arguments: argparse.Namespace, vocab_size: int, sizes: dict[str, Any], answers: dict[str, list[dict[str, float]]]
) -> bool:
    """Print the medians, and whether ours is twice as fast as the better of the others in half of its memory."""
    medians = {name: {key: statistics.median(a[key] for a in got) for key in got[0]} for name, got in answers.items()}
    print(
        f"\nvocabulary {vocab_size:,}, {arguments.conversations} conversations, budget {arguments.budget}, "
        f"{arguments.precision}, {arguments.threads} thread(s), {arguments.repeats} repeats"
    )
    print(
        f"{'':8}{'examples/s':>12}{'ours / this':>13}{'slowest/fastest':>17}{'by the clock':>14}"
        f"{'peak':>10}{'above rest':>12}{'loss':>8}"
    )
    for name, median in medians.items():
        seconds = [answer["cpu_s"] for answer in answers[name]]
        print(
            f"{name:8}{arguments.conversations / median['cpu_s']:12.2f}"
            f"{median['cpu_s'] / medians['ours']['cpu_s']:13.2f}{max(seconds) / min(seconds):17.2f}"
            f"{median['wall_s'] / medians['ours']['wall_s']:14.2f}"
            f"{median['peak'] / 1e9:7.2f} GB{median['above'] / 1e9:9.2f} GB{median['loss']:8.3f}"
        )
    print("parameters:", json.dumps(sizes))
    others = [median for name, median in medians.items() if name != "ours"]
    speed = min(median["cpu_s"] for median in others) / medians["ours"]["cpu_s"]
    memory = {key: medians["ours"][key] / min(median[key] for median in others) for key in ("peak", "above")}
    print(f"speed {speed:.2f}x, peak {memory['peak']:.2f}x, above rest {memory['above']:.2f}x the better of the others")
    return speed >= 2 and memory["peak"] <= 0.5


def write_job(folder: Path, arguments: argparse.Namespace, vocab_size: int) -> Path:
    """Models, data, recipe, and for SALM the rows and its microbatches, in `folder`; the path of the job."""
    recipe = write_recipe(folder, arguments, vocab_size)
    composite = build_composite(recipe.model, recipe.seed)
    rows = [row for batch in open_loader(recipe, composite).load(0) for row in cut_rows(batch)]
    for row in rows:
        row["num_tokens"] = len(row["token_ids"])
        keep = ~row["audio_mask"]
        keep[list(clip_starts(row))] = True  # one locator for a clip
        row["token_ids"], row["supervision_mask"] = row["token_ids"][keep], row["supervision_mask"][keep]
    by_length = sorted(range(len(rows)), key=lambda number: -rows[number]["num_tokens"])
    job = {
        "llm": recipe.model.llm,
        "encoder": ENCODER,
        "adapter": ADAPTER,
        "hidden_size": LLM["hidden_size"],
        "lora": {"r": LORA["rank"], "lora_alpha": LORA["alpha"], "target_modules": list(recipe.model.lora.targets)},
        "threads": arguments.threads,
        "bf16": arguments.precision == "bf16",
        "recipe": recipe.model_dump_json(),
        "rows": rows,
        "microbatches": fill([rows[number]["num_tokens"] for number in by_length], by_length, arguments.budget),
    }
    torch.save(job, folder / "job.pt")
    return folder / "job.pt"


def write_recipe(folder: Path, arguments: argparse.Namespace, vocab_size: int) -> Recipe:
    """Random models of the shapes above and noise for clips, in `folder`."""
    sys.path.insert(0, str(ROOT))
    from tests.tiny import make_llm, make_recipe

    make_llm(folder / "llm", vocab_size=vocab_size, **LLM)
    ParakeetEncoder(ParakeetEncoderConfig(**ENCODER, **NO_DROPOUT)).save_pretrained(folder / "encoder")
    write_conversations(folder, arguments.conversations)
    data = {"conversations_per_step": arguments.conversations, "max_tokens_per_microbatch": arguments.budget}
    data |= {"max_conversation_tokens": min(1024, arguments.budget)}
    train = {"precision": arguments.precision, "spec_augment": None}
    return make_recipe(folder, data=data, model={"adapter": ADAPTER, "lora": LORA}, **train)


def write_conversations(folder: Path, number: int) -> None:
    """One in twenty of text alone, as in the authors' blend, the others with a clip of 1 to 20 s, median 5 s."""
    random = np.random.default_rng(0)

    def say(median: float) -> str:
        return " ".join(random.choice(WORDS, int(np.clip(random.lognormal(np.log(median), 0.6), 2, 100))))

    lines = []
    for index in range(number):
        content: list[dict[str, Any]] = [{"type": "text", "text": say(4)}]
        messages = [{"role": "user", "content": content}, {"role": "assistant", "content": say(6)}]
        if index % 20 == 0:
            messages += [{"role": "user", "content": say(12)}, {"role": "assistant", "content": say(40)}]
        else:
            num_samples = int(np.clip(random.lognormal(np.log(5), 0.6), 1, 20) * 16_000)
            clip = f"clips/{index}.flac"
            write_waveform(folder / clip, random.normal(0, 0.1, num_samples).astype(np.float32), 16_000)
            content.append({"type": "audio", "path": clip, "duration": num_samples / 16_000})
        lines.append(json.dumps({"id": str(index), "task": "mixed", "language": "en", "messages": messages}))
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")


def open_loader(recipe: Recipe, composite: Composite) -> Loader:
    """The loader of our own training."""
    geometry = Geometry(composite.num_audio_tokens, composite.geometry_fingerprint)
    return build_loader(recipe.data, composite.renderer, geometry, recipe.seed)


def cut_rows(batch: Batch) -> Iterator[dict[str, Any]]:
    """The conversations of a microbatch, each on its own."""
    clips = iter(zip(batch.waveforms, batch.num_audio_tokens, strict=True))
    for number in range(len(batch.tasks)):
        inside = batch.conversation_ids == number
        row: dict[str, Any] = {"clips": [], "num_audio_tokens": []}
        row |= {name: getattr(batch, name)[inside] for name in ("token_ids", "supervision_mask", "audio_mask")}
        while sum(row["num_audio_tokens"]) < int(row["audio_mask"].sum()):
            clip, num_audio_tokens = next(clips)
            row["clips"].append(clip)
            row["num_audio_tokens"].append(num_audio_tokens)
        yield row


def clip_starts(row: dict[str, Any]) -> Iterator[int]:
    """Places of the first embedding of each clip."""
    places = row["audio_mask"].nonzero().flatten().tolist()
    start = 0
    for length in row["num_audio_tokens"]:
        yield places[start]
        start += length


def fill(lengths: Sequence[int], numbers: Sequence[int], budget: int) -> list[list[int]]:
    """Microbatches of `numbers` in their order: full when the next row would pass the budget of padded tokens."""
    microbatches: list[list[int]] = [[]]
    longest = 0
    for length, number in zip(lengths, numbers, strict=True):
        longest = max(longest, length)
        if microbatches[-1] and longest * (len(microbatches[-1]) + 1) > budget:
            microbatches.append([])
            longest = length
        microbatches[-1].append(number)
    return microbatches


def work(name: str, path: str) -> None:
    """A contestant's process: answers each line of the standard input with the seconds and memory of a step."""
    job = torch.load(path, weights_only=True)
    torch.set_num_threads(job["threads"])
    recipe = Recipe.model_validate_json(job["recipe"])
    composite = build_composite(recipe.model, recipe.seed)
    model = composite.model.train()
    parameters = trainable_parameters(model)
    optimizer = build_optimizer(parameters, recipe.train.optim)
    batches = open_loader(recipe, composite).load(0)
    rows = [row for batch in batches for row in cut_rows(batch)]
    drawn = np.random.default_rng(0).permutation(len(rows)).tolist()
    padded = fill([len(rows[number]["token_ids"]) for number in drawn], drawn, recipe.data.max_tokens_per_microbatch)
    answer = {"encoder": count(model.model.audio_tower), "adapter": count(model.model.adapter)}
    print(json.dumps(answer | {"trained": sum(p.numel() for p in parameters.values())}), flush=True)
    parallel, tensors = parallelise(model, recipe.train, Ranks(0, 1, torch.device("cpu"))), list(parameters.values())
    forget_peak()
    rest = memory_bytes("VmRSS")
    for step, _ in enumerate(sys.stdin):
        forget_peak()
        start, cpu = time.perf_counter(), time.process_time()
        if name == "ours":
            loss = run_step(composite, optimizer, tensors, batches, recipe.train, parallel, recipe.seed, step).loss
        else:
            loss = run_plain_step(composite, optimizer, tensors, [[rows[n] for n in m] for m in padded], recipe)
        answer = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - start, "loss": loss}
        peak = memory_bytes("VmHWM")
        print(json.dumps(answer | {"peak": peak, "above": peak - rest}), flush=True)


def run_plain_step(
    composite: Composite,
    optimizer: torch.optim.Optimizer,
    parameters: list[torch.Tensor],
    microbatches: Sequence[list[dict[str, Any]]],
    recipe: Recipe,
) -> float:
    """What a loop over the library's forward pass does: padded rows, a mask, labels, and the loss of the model."""
    pad = torch.nn.utils.rnn.pad_sequence
    total = 0.0
    for rows in microbatches:
        input_ids = pad([row["token_ids"] for row in rows], batch_first=True)
        mask = pad([torch.ones_like(row["token_ids"]) for row in rows], batch_first=True)
        clips = [clip for row in rows for clip in row["clips"]]
        audio = {}
        if clips:
            features, feature_mask = extract_features(composite.front_end, clips)
            audio = {"input_features": features, "input_features_mask": feature_mask}
        with precision_context(recipe.train, input_ids.device):
            labels = input_ids.masked_fill(mask == 0, -100)
            output = composite.model(input_ids=input_ids, attention_mask=mask, labels=labels, use_cache=False, **audio)
        loss = output.loss / len(microbatches)
        loss.backward()
        total += loss.item()
    torch.nn.utils.clip_grad_norm_(parameters, recipe.train.optim.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total


if __name__ == "__main__":
    sys.exit(main())
