#!/bin/sh
# Fetch a package of Debian's or Ubuntu's and unpack it into a folder, once; no root is needed and nothing is installed.
#   tools/debian.sh PACKAGE FOLDER
set -eu

package=$1 folder=$2

fail() {
    echo "$1" >&2
    exit 2
}

# Package lists of our own where the system's are missing or old: that needs no root.
download() {
    apt-get download "$package" >&2 2>/dev/null && return
    mkdir -p lists/partial archives/partial
    set -- -o "Dir::State::Lists=$PWD/lists" -o "Dir::Cache=$PWD" -o APT::Sandbox::User=
    apt-get "$@" --quiet update >&2 && apt-get "$@" --quiet download "$package" >&2
}

[ ! -d "$folder/usr" ] || exit 0
for program in apt-get dpkg; do
    command -v $program >/dev/null || fail "$package is a package of Debian and Ubuntu, and $program is not here."
done
echo "Fetching $package into $folder ..." >&2
mkdir -p "$folder"
work=$(mktemp -d "$folder/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
cd "$work"
download || fail "apt-get could not fetch $package, see above."
dpkg -x "$package"_*.deb unpacked
# Renamed when whole, so that an interrupted call leaves nothing half-unpacked.
mv unpacked/usr "$folder/usr" 2>/dev/null || [ -d "$folder/usr" ]
