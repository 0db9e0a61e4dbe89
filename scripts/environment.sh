# Sourced by scripts/pai and scripts/test: makes the virtual environments they run in.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

die() {
    echo "$0: $1" >&2
    exit 125
}

# find_python NAMES...: the first of them that is there and can make virtual environments.
find_python() {
    local name
    for name in "$@"; do
        if "$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    return 1
}

# make_environment FOLDER PYTHON PACKAGES...: an environment with these packages in it. It is
# made once, and filled again when what it is made from has changed. The stamp is written last,
# so that a half-made environment is never taken for a whole one.
make_environment() {
    local folder=$1 python=$2 stamp wanted
    shift 2
    stamp="$folder/made-from-$(echo "$@" | cksum | cut -d' ' -f1)"
    wanted=$(echo "$root" && cat "$root/pyproject.toml" "$root/setup.py" "$root"/pai_runner/*/_*.c)
    if [ -x "$folder/bin/python" ] && [ "$wanted" = "$(cat "$stamp" 2>/dev/null)" ]; then
        return
    fi
    echo "$0: making $folder (TensorFlow is large: this takes a few minutes, once)" >&2
    "$python" -m venv "$folder" ||
        die "cannot make a virtual environment with $python (Debian: apt-get install python3-venv)"
    (cd "$root" && "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "$@") >&2 ||
        die "cannot install into $folder; the lines above say why"
    echo "$wanted" >"$stamp"
}
