#!/usr/bin/env bash
# tools/slurm_train.sh PARTITION JOB CONFIG [arguments of tools/train.py]
# GPUS, GPUS_PER_NODE, CPUS_PER_TASK and SRUN_ARGS change what is asked of slurm.
set -euo pipefail
usage="usage: $0 PARTITION JOB CONFIG [ARGUMENTS]"
partition=${1:?$usage} job=${2:?$usage} config=${3:?$usage}
gpus=${GPUS:-8} per_node=${GPUS_PER_NODE:-8}
# shellcheck disable=SC2086 # SRUN_ARGS is a list of words
exec srun --partition="$partition" --job-name="$job" --gres=gpu:"$per_node" --ntasks="$gpus" \
    --ntasks-per-node="$per_node" --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 \
    ${SRUN_ARGS:-} python -u "$(dirname "$0")/train.py" "$config" --launcher slurm "${@:4}"
