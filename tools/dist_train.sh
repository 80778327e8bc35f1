#!/usr/bin/env bash
# tools/dist_train.sh CONFIG GPUS [arguments of tools/train.py]
# Several nodes: set NNODES, NODE_RANK, MASTER_ADDR (and MASTER_PORT) on each of them.
set -euo pipefail
config=$1
gpus=$2
torchrun --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --nproc_per_node="$gpus" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${MASTER_PORT:-29500}" \
    "$(dirname "$0")/train.py" "$config" --launcher pytorch "${@:3}"
