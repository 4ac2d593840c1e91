# Sourced: find_python sets $python to a Python of version 3.11 or newer, or ends with one line that says why not.

is_usable() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        python=$PYTHON
        is_usable "$python" && return
        echo "PYTHON names $PYTHON, which is no Python 3.11 or newer." >&2
        exit 1
    fi
    for python in python3.11 python3.12 python3.13 python3.14 python3 python; do
        is_usable "$python" && return
    done
    found=$(python3 --version 2>/dev/null || echo none)
    echo "Python 3.11 or newer is needed (found: $found); install it, or name it in PYTHON." >&2
    exit 1
}
