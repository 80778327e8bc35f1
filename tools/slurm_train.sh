#!/usr/bin/env bash
# tools/slurm_train.sh PARTITION JOB_NAME CONFIG [arguments of tools/train.py]
# GPUS (16), GPUS_PER_NODE (8), CPUS_PER_TASK (5) and SRUN_ARGS may be set in the environment.
set -euo pipefail
srun --partition="$1" --job-name="$2" --kill-on-bad-exit=1 \
    --ntasks="${GPUS:-16}" --ntasks-per-node="${GPUS_PER_NODE:-8}" --gres=gpu:"${GPUS_PER_NODE:-8}" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" ${SRUN_ARGS:-} \
    python -u "$(dirname "$0")/train.py" "$3" --launcher slurm "${@:4}"
