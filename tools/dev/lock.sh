#!/usr/bin/env bash
# Writes requirements/locks from the requirement files: every version, with the hashes of its files.
# The versions are those of the *-constraints.txt. mmcv with ops is in none: it has no wheel, or
# the one of MMCV_WHEELS=.
set -euo pipefail
cd "$(dirname "$0")/../../requirements"
# The modern environment is for Python 3.12 alone, and mmcv-lite there does without mmengine.
project=$(mktemp -d)
trap 'rm -r "$project"' EXIT
echo mmengine >"$project/excludes.txt"
echo mmcv-lite >"$project/lite.txt"
compile() { # LANE PYTHON [FILE and options]
    env UV_CUSTOM_COMPILE_COMMAND='make lock' ../.venv-dev/bin/uv --project "$project" pip compile -q \
        --universal --generate-hashes --no-annotate --no-strip-markers --python-version "$2" \
        -o "locks/$1.txt" "$1.txt" "${@:3}"
}
below() { printf '[tool.uv]\nenvironments = ["python_version < '"'$1'"'"]\n' >"$project/pyproject.toml"; }
below 3.13
compile modern 3.12 "$project/lite.txt" --excludes "$project/excludes.txt"
compile torch-newest 3.12
below 3.12
compile paper 3.8.1 "$project/lite.txt"
compile torch-oldest 3.8.1
rm "$project/pyproject.toml"
compile dev 3.8
