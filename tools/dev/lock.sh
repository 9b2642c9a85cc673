#!/usr/bin/env bash
# Writes requirements/locks: the versions of *-constraints.txt with the hashes of their files.
set -euo pipefail
cd "$(dirname "$0")/../../requirements"
compile() { # LANE, from which Python, below which, other files and options
    printf '[tool.uv]\nenvironments = ["python_version < '"'$3'"'"]\n' >../.venv-dev/pyproject.toml
    UV_CUSTOM_COMPILE_COMMAND='make lock' ../.venv-dev/bin/uv --project ../.venv-dev pip compile -q \
        --universal --generate-hashes --no-annotate --no-strip-markers --python-version "$2" \
        -o "locks/$1.txt" "$1.txt" "${@:4}"
}
compile modern 3.12 3.14 - --excludes <(echo mmengine) <<<mmcv-lite
compile torch-newest 3.12 3.13
compile ultralytics 3.12 3.13
compile paper 3.8.1 3.12 - <<<mmcv-lite
compile torch-oldest 3.8.1 3.12
compile dev 3.8 4
