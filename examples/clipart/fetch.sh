#!/bin/sh
# Fetch Debian's package openclipart-png (131 MB, 8,121 pictures in the public domain) once, and print the folder of its pictures.
#   examples/clipart/fetch.sh [CACHE]      default: ~/.cache/drrho-clip/openclipart
set -eu

case $0 in */*) here=${0%/*} ;; *) here=. ;; esac
cache=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/drrho-clip/openclipart}

"$here/../../tools/debian.sh" openclipart-png "$cache" || {
    code=$?
    [ $code -ne 2 ] || echo 'Fetch and unpack the package elsewhere (apt-get download openclipart-png; dpkg -x) and name its folder:' \
        'make clipart DATA=/path/to/png' >&2
    exit $code
}
echo "$cache/usr/share/openclipart/png"
