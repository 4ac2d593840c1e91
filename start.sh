#!/bin/sh
# Starts sdserver; every argument is passed on to it (see ./start.sh --help).
#
# The first start makes .venv beside this file and installs the packages pinned in constraints.txt;
# later starts install nothing and need no network. Works from any folder and with stdin closed.
#
#   PYTHON                the Python (3.11 or newer) to make .venv with
#   SDSERVER_TORCH_INDEX  the package index to take torch from; unset: pip's own configuration
set -eu

# A closed descriptor would be reused by the first file opened.
(true <&0) 2>/dev/null || exec </dev/null
(true >&1) 2>/dev/null || exec >/dev/null
(true 3>&2) || exec 2>/dev/null

self=$(readlink -f -- "$0" 2>/dev/null || printf '%s' "$0")
root=$(CDPATH='' cd -- "$(dirname -- "$self")" && pwd -P)
. "$root/scripts/python.sh"
find_python
exec "$python" "$root/scripts/bootstrap.py" serve "$@"
