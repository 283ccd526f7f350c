#!/bin/sh
# Make the virtual environment $1 and install the project with constraints.txt; uv is fetched into $2 where it is missing.
# PYTHON names another interpreter than the first of python3, python3.13, python3.12, python3.11 that is new enough.
set -eu

venv=$1
bootstrap=$2

fail() {
    echo "$1" >&2
    exit 2
}

find_python() {
    for name in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    found=$("${PYTHON:-python3}" --version 2>/dev/null) || found='not there'
    fail "Python 3.11 or newer is needed, and ${PYTHON:-python3} is $found. Install one, or name one: make PYTHON=/path/to/python3.11 ..."
}

find_uv() {
    if command -v uv; then
        return
    fi
    if [ ! -x "$bootstrap/bin/uv" ]; then
        echo 'Fetching uv ...' >&2
        "$python" -m venv --clear "$bootstrap" >&2 ||
            fail "Python's venv module does not work here (Debian and Ubuntu: apt install python3-venv), and uv is not installed."
        "$bootstrap/bin/python" -m pip install --quiet --disable-pip-version-check uv >&2 || fail 'pip could not fetch uv, see above.'
    fi
    echo "$bootstrap/bin/uv"
}

python=$(find_python)
uv=$(find_uv)

# Bars where somebody is watching, silence elsewhere.
[ -t 2 ] && quiet= || quiet=--quiet

if ! "$venv/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    "$uv" venv --quiet --clear --python "$python" "$venv"
fi
# Bytecode at once: else every first import compiles PyTorch anew where PYTHONDONTWRITEBYTECODE is set.
echo "Installing into $venv (PyTorch is large: the first time takes minutes) ..." >&2
"$uv" pip install $quiet --exact --compile-bytecode --python "$venv/bin/python" --build-constraints constraints.txt --constraints constraints.txt \
    --editable '.[test]'
