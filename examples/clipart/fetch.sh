#!/bin/sh
# Fetch Debian's package openclipart-png (131 MB, 8,121 pictures in the public domain) once, and print the folder of its pictures.
#   examples/clipart/fetch.sh [CACHE]      default: ~/.cache/drrho-clip/openclipart
set -eu

cache=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/drrho-clip/openclipart}
other='Fetch and unpack the package elsewhere (apt-get download openclipart-png; dpkg -x) and name its folder: make clipart DATA=/path/to/png'

fail() {
    echo "$1 $other" >&2
    exit 2
}

# Package lists of our own where the system's are missing or old: that needs no root.
download() {
    apt-get download openclipart-png >&2 2>/dev/null && return
    mkdir -p lists/partial archives/partial
    set -- -o "Dir::State::Lists=$PWD/lists" -o "Dir::Cache=$PWD" -o APT::Sandbox::User=
    apt-get "$@" --quiet update >&2 && apt-get "$@" --quiet download openclipart-png >&2
}

if [ ! -d "$cache/png" ]; then
    for program in apt-get dpkg; do
        command -v $program >/dev/null || fail "The clip-art is a package of Debian and Ubuntu, and $program is not here."
    done
    echo "Fetching openclipart-png (131 MB) into $cache ..." >&2
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/fetch.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    trap 'exit 130' INT TERM
    cd "$work"
    download || fail 'apt-get could not fetch openclipart-png, see above.'
    dpkg -x openclipart-png_*.deb .
    # Renamed when whole, so that an interrupted call leaves nothing half-unpacked.
    mv usr/share/openclipart/png "$cache/png" 2>/dev/null || [ -d "$cache/png" ]
fi
echo "$cache/png"
