"""The FastConformer that leaves padding out against the library's, on clips of many lengths.

    python benchmarks/encoder_padding.py
    python benchmarks/encoder_padding.py --device cuda --size 1024 --layers 24 --clips 32 --seconds 2 20
    python benchmarks/encoder_padding.py --size 32 --layers 1 --clips 3 --steps 1 --repeats 1

Both have the same weights and hear the same clips, drawn evenly between two lengths and padded to the longest, forward
and backward, in turn. What they say of the valid frames must agree. Only ratios within one run mean something.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time

import torch
from torch import Tensor
from transformers import ParakeetEncoder, ParakeetEncoderConfig, PreTrainedModel

from voicetextblender.mini.base_encoder import initialise
from voicetextblender.model.encoders.conformer import FastConformerTower
from voicetextblender.model.encoders.output import mask_of_lengths

FRAMES_PER_S = 100
MAX_DIFFERENCE = 1e-3
"""As a share of the deviation of hidden states from frame to frame."""


def main() -> int:
    """Print both times and their ratio; 1 where the encoders do not agree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--clips", type=int, default=8, help="of a batch")
    parser.add_argument("--seconds", type=float, nargs=2, default=(0.5, 3.0), help="shortest and longest clip")
    parser.add_argument("--steps", type=int, default=20, help="batches of a repeat")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    config = ParakeetEncoderConfig(
        hidden_size=arguments.size,
        num_hidden_layers=arguments.layers,
        num_attention_heads=max(1, arguments.size // 64),
        intermediate_size=2 * arguments.size,
        subsampling_conv_channels=32,
        layerdrop=0.0,
    )
    library = ParakeetEncoder(config).to(arguments.device).eval()
    initialise(library)  # as the library starts, hardly anything of the input reaches the output
    ours = FastConformerTower(config).to(arguments.device).eval()
    ours.load_state_dict(library.state_dict())
    shortest, longest = (int(seconds * FRAMES_PER_S) for seconds in arguments.seconds)
    batches = [make_batch(arguments.clips, shortest, longest, arguments.device) for _ in range(arguments.steps)]
    taken: dict[str, list[float]] = {"library": [], "ours": []}
    for repeat in range(arguments.repeats + 1):
        for name, tower in (("library", library), ("ours", ours))[:: 1 if repeat % 2 else -1]:
            seconds = time_batches(tower, batches)
            if repeat:  # the first round warms up
                taken[name].append(seconds / arguments.steps)
    difference = max(compare(library, ours, batch) for batch in batches)
    padding = 1 - sum(float(mask.sum()) for _, mask in batches) / sum(mask.numel() for _, mask in batches)
    medians = {name: statistics.median(seconds) for name, seconds in taken.items()}
    print(f"{arguments.clips} clips of {shortest} to {longest} frames, {padding:.0%} padding, {arguments.device}")
    for name, seconds in medians.items():
        print(f"    {name:8} {1e3 * seconds:8.1f} ms a batch, forward and backward")
    print(f"    library / ours {medians['library'] / medians['ours']:.2f}, largest difference {difference:.1e}")
    print(json.dumps({"ratio": medians["library"] / medians["ours"], "difference": difference, "padding": padding}))
    return int(difference > MAX_DIFFERENCE)


def make_batch(num_clips: int, shortest: int, longest: int, device: str) -> tuple[Tensor, Tensor]:
    """Features `[clips frames 80]`, padded to the longest clip, and the mask of their frames."""
    lengths = torch.randint(shortest, longest + 1, (num_clips,))
    width = int(lengths.max())
    mask = mask_of_lengths(lengths, width)
    return (torch.randn(num_clips, width, 80) * mask[..., None]).to(device), mask.to(device)


def time_batches(tower: PreTrainedModel, batches: list[tuple[Tensor, Tensor]]) -> float:
    """Seconds of forward and backward over all batches."""
    wait = torch.cuda.synchronize if batches[0][0].is_cuda else lambda: None
    wait()
    start = time.perf_counter()
    for features, mask in batches:
        tower.zero_grad(set_to_none=True)
        output = tower(input_features=features, attention_mask=mask)
        output.last_hidden_state[output.attention_mask.bool()].sum().backward()
    wait()
    return time.perf_counter() - start


@torch.no_grad()
def compare(library: PreTrainedModel, ours: PreTrainedModel, batch: tuple[Tensor, Tensor]) -> float:
    """The largest difference between valid frames, as a share of how much frames differ from each other."""
    features, mask = batch
    outputs = [tower(input_features=features, attention_mask=mask) for tower in (library, ours)]
    valid = outputs[0].attention_mask.bool()
    expected, found = (output.last_hidden_state[valid] for output in outputs)
    return float((expected - found).abs().max() / expected.std(0).mean())


if __name__ == "__main__":
    sys.exit(main())
