#!/bin/sh
# NeMo's own environment, for benchmarks that compare with it: about 5 minutes and 4 GB.
#   sh benchmarks/nemo_environment.sh /tmp/nemo-env
set -e
folder=${1:?usage: nemo_environment.sh FOLDER}
python3 -m venv "$folder"
echo 'torch>=2.11,<2.14' > "$folder/constraints.txt"
"$folder/bin/pip" install --quiet --disable-pip-version-check -c "$folder/constraints.txt" 'nemo_toolkit[asr]>=3.0,<4'
"$folder/bin/pip" install --quiet --disable-pip-version-check -c "$folder/constraints.txt" peft accelerate  # for SALM
"$folder/bin/pip" uninstall --quiet --yes torchao 2>/dev/null || true  # optional to NeMo, and does not fit this torch
