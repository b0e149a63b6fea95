#!/usr/bin/env bash
# Makes a virtual environment from a lock file on a fresh Debian or Ubuntu machine.
#   deploy/setup.sh VENV LOCKFILE
# Installs python3-venv and softhsm2 from the distribution if they are missing; asks for root only then.
# For the tests it also installs swtpm where root is at hand; without it those tests are skipped, and say so.
set -euo pipefail
venv=$1 lock=$2

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    die "Python 3.11 or newer was not found. Install it (Debian 12: apt-get install python3) or set PYTHON=/path/to/python."
}

find_softhsm() {
    local module
    for module in /usr/lib/softhsm/libsofthsm2.so /usr/lib/*/softhsm/libsofthsm2.so; do
        [ -e "$module" ] && return 0
    done
    return 1
}

apt_install() {
    say "Installing from the distribution: $*"
    command -v apt-get >/dev/null || die "apt-get was not found; install by hand: $*"
    local root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || die "root is needed once to run: apt-get install $*"
        root=(sudo)
    fi
    "${root[@]}" apt-get update -qq
    DEBIAN_FRONTEND=noninteractive "${root[@]}" apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

python=$(find_python)
missing=()
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
find_softhsm || missing+=(softhsm2)
case $lock in *-dev.lock)
    if ! { command -v swtpm && command -v tpm2_quote; } >/dev/null; then
        if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
            missing+=(swtpm swtpm-tools tpm2-tools)
        else
            say "swtpm is not here: its tests are skipped (apt-get install swtpm swtpm-tools tpm2-tools)"
        fi
    fi ;;
esac
[ ${#missing[@]} -eq 0 ] || apt_install "${missing[@]}"

if [ ! -x "$venv/bin/python" ]; then
    say "Making $venv with $("$python" --version)"
    "$python" -m venv "$venv"
fi
say "Installing what $lock pins (hashes checked)"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r "$lock"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
say "Ready."
