#!/usr/bin/env bash
# Prints a Python that suits the lane, runs and can make virtual environments.
# usage: [PYTHON=python3.9] find_python.sh LANE [VENV]
# PYTHON wins; then the Python of an existing VENV; then what PATH and pyenv offer, in the order
# of the versions that requirements/LANE.txt states.
# Every candidate is run first: a version manager's shim on PATH may only print an error.

lane=${1:?usage: find_python.sh LANE [VENV]}
venv=${2:-.venv-$lane}
requirements=${BASH_SOURCE[0]%/*}/../../requirements

version() { # of the interpreter $1; nothing if it does not run
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null </dev/null
}
supported() { [[ " ${versions[*]} " == *" $(version "$1") "* ]]; }
makes_venvs() { "$1" -c 'import ensurepip, venv' >/dev/null 2>&1 </dev/null; }
fail() {
    echo "error: $1" >&2
    exit 2
}
no_venv() { # Debian splits the venv module off
    fail "$1 cannot make virtual environments; install its venv module (Debian, Ubuntu: python$(version "$1")-venv), or name another with PYTHON="
}
stated() { # the Pythons of the lane $1, the best first
    local line
    while read -r line; do
        [[ $line != '# python: '* ]] || echo "${line#*: }"
    done 2>/dev/null <"$requirements/$1.txt"
}

read -ra versions < <(stated "$lane")
if [[ -z ${versions[*]} ]]; then
    for file in "$requirements"/*.txt; do
        file=${file##*/}
        [[ -z $(stated "${file%.txt}") ]] || lanes+=("${file%.txt}")
    done
    fail "there is no lane $lane; there are: ${lanes[*]}"
fi

if [[ -n ${PYTHON:-} ]]; then
    found=$(version "$PYTHON")
    [[ -n $found ]] || fail "PYTHON=$PYTHON does not run; give the path of a Python (${versions[*]})"
    supported "$PYTHON" || fail "PYTHON=$PYTHON is Python $found; the $lane lane takes ${versions[*]}"
    makes_venvs "$PYTHON" || no_venv "$PYTHON"
    echo "$PYTHON"
    exit
fi

if supported "$venv/bin/python"; then
    echo "$venv/bin/python"
    exit
fi

shopt -s nullglob
for v in "${versions[@]}"; do
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
fail "no Python for the $lane lane found (${versions[*]}); install one, or name it with PYTHON="
