#!/bin/bash
# Train by a recipe on several nodes of a SLURM cluster, one launcher a node, one process a GPU:
#
#     sbatch --nodes 8 examples/slurm.sh voicetextblender-3b runs/3b train.parallel=hsdp
#
# Run folder, data, models and the environment lie on a disk that all nodes see. A job that ends early, whatever the
# cause, is sent again with the same line and goes on from its newest checkpoint, with more nodes or fewer.
#SBATCH --job-name=voicetextblender
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.log
#SBATCH --requeue
set -euo pipefail

if (($# < 2)); then
    echo "usage: sbatch [--nodes N] $0 RECIPE RUN [key=value ...]" >&2
    exit 2
fi
recipe=$1 run=$2
shift 2

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
export OMP_NUM_THREADS=4 # of each process; the workers that read data have their own
# --max-restarts: a process that dies takes the others with it, and all of them start again from the newest checkpoint.
srun --kill-on-bad-exit=1 torchrun \
    --nnodes "$SLURM_NNODES" \
    --nproc-per-node "${SLURM_GPUS_ON_NODE:-8}" \
    --rdzv-backend c10d \
    --rdzv-endpoint "${nodes[0]}:29500" \
    --rdzv-id "$SLURM_JOB_ID" \
    --max-restarts 3 \
    -m voicetextblender train "$recipe" --out "$run" "$@"
