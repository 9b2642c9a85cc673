#!/usr/bin/env bash
# Prints a Python 3.8 to 3.11 that runs and can make virtual environments.
# usage: [PYTHON=python3.9] find_python.sh VENV
# PYTHON wins; then the Python of an existing VENV; then what PATH and pyenv offer.
# Every candidate is run first: a version manager's shim on PATH may only print an error.

venv=${1:?usage: find_python.sh VENV}

version() { # of the interpreter $1; nothing if it does not run
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null </dev/null
}
supported() { [[ $(version "$1") =~ ^3\.(8|9|10|11)$ ]]; }
makes_venvs() { "$1" -c 'import ensurepip, venv' 2>/dev/null </dev/null; }
fail() {
    echo "error: $1" >&2
    exit 2
}
no_venv() { # Debian splits the venv module off
    fail "$1 cannot make virtual environments; install its venv module (Debian, Ubuntu: python$(version "$1")-venv), or name another with PYTHON="
}

if [[ -n ${PYTHON:-} ]]; then
    found=$(version "$PYTHON")
    [[ -n $found ]] || fail "PYTHON=$PYTHON does not run; give the path of a Python 3.8 to 3.11"
    supported "$PYTHON" || fail "PYTHON=$PYTHON is Python $found; this stack needs 3.8 to 3.11"
    makes_venvs "$PYTHON" || no_venv "$PYTHON"
    echo "$PYTHON"
    exit
fi

if supported "$venv/bin/python"; then
    echo "$venv/bin/python"
    exit
fi

shopt -s nullglob
for v in 3.10 3.11 3.9 3.8; do
    mapfile -t on_path < <(type -ap "python$v")
    candidates+=("${on_path[@]}" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$v".*/bin/python)
done
mapfile -t on_path < <(type -ap python3 python)
for python in "${candidates[@]}" "${on_path[@]}"; do
    supported "$python" || continue
    if makes_venvs "$python"; then
        echo "$python"
        exit
    fi
    half=${half:-$python}
done
[[ -z ${half:-} ]] || no_venv "$half"
fail 'no Python 3.8 to 3.11 found (3.10 is the paper'\''s); install one, or name it with PYTHON='
