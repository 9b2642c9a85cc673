#!/usr/bin/env bash
# One machine, several GPUs:  tools/dist_train.sh CONFIG GPUS [arguments of tools/train.py]
# Several machines: NNODES, NODE_RANK, MASTER_ADDR and PORT as torchrun knows them.
set -euo pipefail
config=${1:?usage: $0 CONFIG GPUS [ARGUMENTS]} gpus=${2:?usage: $0 CONFIG GPUS [ARGUMENTS]}
exec torchrun --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --nproc_per_node="$gpus" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
    "$(dirname "$0")/train.py" "$config" --launcher pytorch "${@:3}"
