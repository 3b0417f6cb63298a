#!/usr/bin/env bash
# Sees to it that there is a Chromium for the browser test: one that is here, or the system's package.
set -euo pipefail
for name in chromium chromium-browser google-chrome; do
    if command -v "$name" > /dev/null; then exit 0; fi
done
if ! command -v apt-get > /dev/null; then
    echo "make test-browser: no Chromium is here, and this system has no apt-get; install chromium with its own" >&2
    echo "package manager, so that the command chromium is found, and run this again" >&2
    exit 1
fi
root=()
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo > /dev/null; then
        echo "make test-browser: no Chromium is here; as root: apt-get install chromium" >&2
        exit 1
    fi
    root=(sudo)
fi
echo "installing the system's package chromium ..."
install() { ${root[@]+"${root[@]}"} env DEBIAN_FRONTEND=noninteractive apt-get "$@"; }
install install -y -qq chromium > /dev/null || { install update -qq && install install -y -qq chromium > /dev/null; }
command -v chromium > /dev/null
