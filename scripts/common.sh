#!/usr/bin/env bash
# Sourced by the scripts beside it: goes to the repository's root and offers `bootstrap SET`, which brings .venv
# to the versions in constraints.txt with the extra SET of pyproject.toml, or finds in a moment that it is there.
# The sets share one .venv. A stamp per set, written last, holds a hash of all an installation depends on.

set -euo pipefail

root=$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$root"

export PIP_DISABLE_PIP_VERSION_CHECK=1
export PIP_USER=0 # a user's `user = true` in pip.conf would make every installation into .venv fail

say() { printf '[hetfed] %s\n' "$*" >&2; }

fail() {
    printf '[hetfed] error: %s\n' "$*" >&2
    exit 1
}

# Prints the first Python that can make the environment; fails with what was found instead.
find_python() {
    local candidate version found=""
    for candidate in python3.11 python3 python3.12 python3.13 python3.14 python; do
        # A pyenv shim is in PATH without its Python, hence the try instead of `command -v` alone.
        version=$("$candidate" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null) || continue
        if ! "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            found+=" $candidate is $version;"
        elif ! "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
            found+=" $candidate is $version but lacks venv (on Debian: apt install ${candidate}-venv);"
        else
            command -v "$candidate"
            return
        fi
    done
    fail "expected Python 3.11 or newer in PATH, found:${found:- none}" \
        "Install one (apt install python3.11-venv, brew install python@3.11, pyenv install 3.11) and try again."
}

# Prints the hash a valid stamp of SET holds; fails if .venv cannot run or lost a main package.
stamp_of() {
    .venv/bin/python -I -c '
import hashlib, importlib.util, pathlib, sys
if not all(importlib.util.find_spec(name) for name in ("pip", "torch", "lightning", "hetfed_lightning")):
    sys.exit(1)
files = [pathlib.Path(name).read_text(encoding="utf-8") for name in ("pyproject.toml", "constraints.txt")]
print(hashlib.sha256("\0".join([sys.version, sys.prefix, sys.argv[1], *files]).encode()).hexdigest())
' "$1" 2>/dev/null
}

# Whether SET is installed; `dev` holds every other set.
is_current() {
    local name
    [[ -x .venv/bin/hetfed && ! -e .venv/.installing ]] || return 1
    for name in "$1" dev; do
        if [[ -f .venv/.installed-$name && $(stamp_of "$name") == "$(<".venv/.installed-$name")" ]]; then
            return 0
        fi
    done
    return 1
}

# Whether .venv can be installed into: whole, new enough, and made at this path (its commands name it). Where a stamp
# says that packages were there and they no longer are, pip would go on taking them for installed.
is_sound() {
    [[ ! -e .venv/.installing ]] &&
        .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null &&
        .venv/bin/python -m pip --version >/dev/null 2>&1 &&
        { ! compgen -G '.venv/.installed-*' >/dev/null || stamp_of any >/dev/null; } &&
        grep -qF -- "$root/.venv" .venv/bin/activate 2>/dev/null
}

pip_install() {
    # -qq hides pip's warnings about the machine's own configuration and keeps its errors.
    .venv/bin/python -m pip install -qq --no-input --progress-bar off -c constraints.txt "$@" || {
        local status=$?
        # Killed half-way, pip leaves packages that look installed: keep the mark, so that the next run starts afresh.
        ((status >= 128)) || rm -f .venv/.installing
        fail "pip could not install $* (status $status); its own message is above. Run the same command again."
    }
}

install_set() {
    local python
    if ! is_sound; then
        python=$(find_python)
        [[ ! -e .venv && ! -L .venv ]] || say "replacing .venv: it is broken, too old, half installed or was moved here"
        say "making .venv with $python"
        rm -rf .venv
        mkdir .venv
        touch .venv/.installing
        "$python" -m venv .venv
    fi
    touch .venv/.installing
    say "installing torch, then hetfed-lightning[$1], into .venv: the first time 2 to 10 minutes, later a moment"
    pip_install torch # alone and first: by far the largest download, kept even if something later fails
    pip_install -e ".[$1]"
    rm -f .venv/.installing
    stamp_of "$1" >.venv/.stamp || fail "the new .venv lacks torch, lightning or hetfed_lightning: remove it, try again"
    mv .venv/.stamp ".venv/.installed-$1"
}

# bootstrap SET: make sure that .venv holds the extra SET (all, test, dev ...) of pyproject.toml.
bootstrap() {
    if is_current "$1"; then
        return
    fi
    (
        # pip answers Ctrl-C with an ordinary error; the traps tell it from one, so that the mark above stays.
        trap 'exit 130' INT
        trap 'exit 143' TERM
        if command -v flock >/dev/null; then # two scripts started side by side install one after the other
            exec 9>.venv.lock
            flock -n 9 || {
                say "waiting for another installation into .venv"
                flock 9
            }
        fi
        if ! is_current "$1"; then
            install_set "$1"
        fi
    )
}
