#!/bin/sh
# Packages that a machine with a GPU may lack beside torch, transformers, peft and accelerate, as a folder to carry there:
#   sh benchmarks/gpu_packages.sh gpu-packages [3.12]
#   python benchmarks/gpu_train.py --packages gpu-packages
set -e
folder=${1:?usage: gpu_packages.sh FOLDER [PYTHON_VERSION]}
python3 -m pip install --quiet --disable-pip-version-check --target "$folder" --python-version "${2:-3.12}" \
  --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 --only-binary=:all: --no-deps \
  pydantic==2.11.9 pydantic-core==2.33.2 annotated-types typing-inspection jaxtyping wadler-lindig
