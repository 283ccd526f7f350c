#!/bin/sh
# Fetch the npm package @iconify/json (100 MB, 240 icon families) once, draw its icons once, and print the folder of the tars.
#   examples/icons/fetch.sh [CACHE]      default: ~/.cache/drrho-clip/icons
# Python is that of the project's .venv, or the one that PYTHON names.
set -eu

case $0 in */*) here=${0%/*} ;; *) here=. ;; esac
cache=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/drrho-clip/icons}
python=${PYTHON:-$here/../../.venv/bin/python}

fail() {
    echo "$1" >&2
    exit 2
}

if [ ! -d "$cache/package" ]; then
    command -v npm >/dev/null || fail 'The icons come with npm, which is not here. Unpack @iconify/json elsewhere (npm pack @iconify/json; tar xzf iconify-json-*.tgz) and draw them: python examples/icons/draw.py package/json FOLDER; then: make icons DATA=FOLDER'
    echo "Fetching @iconify/json into $cache ..." >&2
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/fetch.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    trap 'exit 130' INT TERM
    (cd "$work" && npm pack --silent @iconify/json >&2) || fail 'npm could not fetch @iconify/json, see above.'
    tar xzf "$work"/iconify-json-*.tgz -C "$work"
    # Renamed when whole, so that an interrupted call leaves nothing half-unpacked.
    mv "$work/package" "$cache/package"
fi
[ -d "$cache/shards" ] || "$python" "$here/draw.py" "$cache/package/json" "$cache/shards" >&2
echo "$cache/shards"
