"""Our FastConformer against NeMo's own: the same archive, the same clips, features and encoder outputs side by side.

    sh benchmarks/nemo_environment.sh /tmp/nemo-env
    python benchmarks/nemo_parity.py --nemo-python /tmp/nemo-env/bin/python

NeMo makes small models with random weights in the configurations of its published encoders, saves each as a `.nemo`
archive, and writes down what its preprocessor and encoder give for clips of unequal length, together and alone. Then
this package opens the archives. Exits with 1 when a relative error is above the bound.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

BOUND = 1e-3
LENGTHS = [16_000, 23_457, 4_321, 40_000]
ENCODER = {
    "_target_": "nemo.collections.asr.modules.ConformerEncoder",
    "feat_in": 128,
    "feat_out": -1,
    "n_layers": 3,
    "d_model": 64,
    "subsampling": "dw_striding",
    "subsampling_factor": 8,
    "subsampling_conv_channels": 16,
    "causal_downsampling": False,
    "ff_expansion_factor": 4,
    "self_attention_model": "rel_pos",
    "n_heads": 4,
    "att_context_size": [-1, -1],
    "xscaling": False,
    "untie_biases": True,
    "pos_emb_max_len": 5000,
    "conv_kernel_size": 9,
    "conv_norm_type": "batch_norm",
    "dropout": 0.1,
    "dropout_emb": 0.0,
    "dropout_att": 0.1,
}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "canary-1b: 128 mels, no input scale": {},
    "canary-1b-flash, -v2: as that, more layers": {"n_layers": 5},
    "parakeet-ctc: 80 mels, input scale": {"feat_in": 80, "xscaling": True},
    "parakeet-tdt-v2, -v3: no biases": {"use_bias": False},
    "4 audio frames per encoder frame, kernel 31": {"subsampling_factor": 4, "conv_kernel_size": 31, "feat_in": 80},
}


def write_archives(folder: Path) -> None:
    """What runs in NeMo's environment: archives, and what NeMo makes of the clips."""
    from nemo.collections.asr.models import EncDecCTCModel
    from omegaconf import OmegaConf

    clips = [torch.randn(length, generator=torch.Generator().manual_seed(length)) * 0.1 for length in LENGTHS]
    padded = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
    for number, changes in enumerate(CONFIGURATIONS.values()):
        encoder = ENCODER | changes
        model = EncDecCTCModel(OmegaConf.create(model_config(encoder))).eval()
        randomise(model, seed=number)
        model.save_to(str(folder / f"{number}.nemo"))
        arrays = {}
        with torch.inference_mode():
            for name, waveforms, lengths in [("together", padded, LENGTHS), ("alone", clips[0][None], LENGTHS[:1])]:
                features, num_frames = model.preprocessor(input_signal=waveforms, length=torch.tensor(lengths))
                hidden, num_encoded = model.encoder(audio_signal=features, length=num_frames)
                arrays |= {f"{name}_features": features.transpose(1, 2), f"{name}_num_frames": num_frames}
                arrays |= {f"{name}_hidden": hidden.transpose(1, 2), f"{name}_num_encoded": num_encoded}
        np.savez(folder / f"{number}.npz", **{key: value.numpy() for key, value in arrays.items()})


def model_config(encoder: dict[str, Any]) -> dict[str, Any]:
    """A CTC model over letters: the least that makes an archive."""
    letters = list("abcdefghijklmnopqrstuvwxyz ")
    return {
        "sample_rate": 16_000,
        "preprocessor": {
            "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
            "sample_rate": 16_000,
            "normalize": "per_feature",
            "window_size": 0.025,
            "window_stride": 0.01,
            "window": "hann",
            "features": encoder["feat_in"],
            "n_fft": 512,
            "frame_splicing": 1,
            "dither": 1e-5,
            "pad_to": 0,
        },
        "encoder": encoder,
        "decoder": {
            "_target_": "nemo.collections.asr.modules.ConvASRDecoder",
            "feat_in": encoder["d_model"],
            "num_classes": len(letters),
            "vocabulary": letters,
        },
    }


def randomise(model: torch.nn.Module, seed: int) -> None:
    """Values for all that starts at zero or one, statistics of batch normalisation too."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in [*model.encoder.named_parameters(), *model.encoder.named_buffers()]:
        if value.is_floating_point() and not name.startswith("pos_enc"):
            noise = torch.randn(value.shape, generator=generator) * 0.1
            value.data.add_(noise.abs() if name.endswith("running_var") else noise)


def compare(folder: Path) -> list[tuple[str, float, float, int]]:
    """Largest errors of features and hidden states relative to the largest value, and tensors loaded."""
    from voicetextblender.audio.front_end import extract_features, open_front_end
    from voicetextblender.model.encoders.encode import encode
    from voicetextblender.model.encoders.load import load_encoder
    from voicetextblender.model.encoders.plan import plan_encoder

    clips = [torch.randn(length, generator=torch.Generator().manual_seed(length)) * 0.1 for length in LENGTHS]
    rows = []
    for number, name in enumerate(CONFIGURATIONS):
        plan = plan_encoder(str(folder / f"{number}.nemo"))
        tower = load_encoder(plan).eval()
        theirs = np.load(folder / f"{number}.npz")
        errors = []
        for which, waveforms in [("together", clips), ("alone", clips[:1])]:
            features, mask = extract_features(open_front_end(plan.front_end), waveforms)
            with torch.inference_mode():
                encoded = encode(tower, features, mask)
            valid = encoded.attention_mask.bool()
            assert mask.sum(1).tolist() == theirs[f"{which}_num_frames"].tolist()
            assert valid.sum(1).tolist() == theirs[f"{which}_num_encoded"].tolist()
            assert [plan.num_audio_tokens(len(clip)) for clip in waveforms] == valid.sum(1).tolist()
            hidden = torch.from_numpy(theirs[f"{which}_hidden"])[:, : valid.shape[1]]
            width = features.shape[1]
            errors.append(
                (
                    relative_error(features[mask], torch.from_numpy(theirs[f"{which}_features"])[:, :width][mask]),
                    relative_error(encoded.last_hidden_state[valid], hidden[valid]),
                )
            )
        rows.append((name, *(max(column) for column in zip(*errors, strict=True)), len(tower.state_dict())))
    return rows


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference, as a share of the largest value."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nemo-python", default="python", help="interpreter of NeMo's environment")
    parser.add_argument("--write", type=Path, help="folder for archives and NeMo's outputs; used by the script itself")
    arguments = parser.parse_args()
    if arguments.write:
        write_archives(arguments.write)
        return
    with tempfile.TemporaryDirectory() as folder:
        command = [arguments.nemo_python, __file__, "--write", folder]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr[-3000:])
        rows = compare(Path(folder))
    print("| configuration | tensors | features, relative error | encoder, relative error |\n|---|---|---|---|")
    for name, features, hidden, count in rows:
        print(f"| {name} | {count} | {features:.1e} | {hidden:.1e} |")
    sys.exit(any(max(features, hidden) > BOUND for _, features, hidden, _ in rows))


if __name__ == "__main__":
    main()
