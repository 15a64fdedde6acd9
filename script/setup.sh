#!/bin/sh
# Find or make the Python that the scripts run with, and leave it in $python.
#   sh script/setup.sh               set up by hand; the other scripts do it themselves
#   PYTHON=python3 sh script/...     use this Python as it is
# Without PYTHON, an active virtual or conda environment is used if it satisfies requirements.txt.
# Otherwise .venv in the repository is used, and made on first use. A script that sources this file
# may name further files of requirements, relative to the repository, in more_requirements.
# A script's --help makes no .venv: any Python will do that has the packages in help_needs.

set -eu
unset CDPATH
root=$(cd -P "$(dirname "$0")/.." && pwd)
requirements="requirements.txt ${more_requirements:-}"

fail() {
    echo "error: $1" >&2
    exit 2
}

# Tell whether the Python $1 has all requirements, and leave in $lacking what it lacks.
satisfies() {
    # tensorboard, a requirement, brings packaging: without it something is missing anyway.
    lacking=$(cd "$root" && "$1" - $requirements 2>/dev/null <<'PYTHON'
import sys
from importlib.metadata import PackageNotFoundError, version
from packaging.requirements import Requirement

for path in sys.argv[1:]:
    for line in open(path, encoding="utf-8"):
        if not (line := line.split("#")[0].strip()):
            continue
        wanted = Requirement(line)
        try:
            found = version(wanted.name)
        except PackageNotFoundError:
            found = "nothing"
        if found == "nothing" or not wanted.specifier.contains(found, prereleases=True):
            print(f"{wanted} (found {found})", end=" ")
PYTHON
    ) && [ -z "$lacking" ]
}

# Tell whether one of the words is --help.
asks_help() {
    for word; do
        case $word in -h | --help) return 0 ;; esac
    done
    return 1
}

# Tell whether the Python $1 can show the commands' help.
can_help() {
    "$1" - ${help_needs:-torch numpy sklearn tqdm filelock} 2>/dev/null <<'PYTHON'
import sys
from importlib.util import find_spec

sys.exit(sys.version_info < (3, 11) or not all(map(find_spec, sys.argv[1:])))
PYTHON
}

# Tell whether another process, of any user, has the number $1.
is_running() {
    [ "$1" != $$ ] && { kill -0 "$1" 2>/dev/null || ps -p "$1" >/dev/null 2>&1; }
}

# Make .venv, or add what it lacks. A stamp for each set of requirements says that it is whole.
make_venv() {
    stamp="$root/.venv/whole-$(cd "$root" && cat $requirements | cksum | tr ' ' -)"
    [ ! -e "$stamp" ] || return 0
    lock="$root/.venv.lock" # a link to the number of the process that holds it
    until ln -s $$ "$lock" 2>/dev/null; do
        owner=$(readlink "$lock" || true)
        [ -n "$owner" ] || [ -w "$root" ] || fail "$root cannot be written: set PYTHON instead"
        if [ -n "$owner" ] && ! is_running "$owner"; then
            # its owner was killed; mv lets only one of several waiters take it away
            mv "$lock" "$lock.$$" 2>/dev/null && rm -f "$lock.$$"
        else
            echo "waiting for the set-up by process ${owner:-that has just ended}" >&2
            sleep 5
        fi
    done
    trap 'rm -f "$lock"' EXIT
    trap 'exit 130' INT TERM
    if [ ! -e "$stamp" ]; then
        base=$(command -v python3) || fail "python3 not found: install Python 3.11 or newer"
        "$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
            fail "$("$base" --version) found, 3.11 or newer needed: set PYTHON to one"
        echo "setting up $root/.venv: about 2 minutes and 6 GB the first time" >&2
        "$base" -m venv "$root/.venv" || fail "python3 -m venv failed: install python3-venv"
        (cd "$root" && "$root/.venv/bin/python" -m pip install --disable-pip-version-check \
            $(printf -- '-r %s ' $requirements)) >&2 ||
            fail "pip could not install $requirements: see its message above, then run this again"
        touch "$stamp"
    fi
    rm -f "$lock"
    trap - EXIT INT TERM
}

if [ "${0##*/}" = setup.sh ] && asks_help "$@"; then
    sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
    exit
elif [ -n "${PYTHON:-}" ]; then
    python=$(command -v "$PYTHON") || fail "PYTHON=$PYTHON: no such program"
    case $python in /*) ;; *) python=$PWD/$python ;; esac
elif [ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && satisfies "$(command -v python)"; then
    python=$(command -v python)
elif asks_help "$@"; then
    for python in "$root/.venv/bin/python" python python3 ''; do
        ! can_help "$python" || break
    done
    [ -n "$python" ] || fail "--help needs Python 3.11 or newer with torch and scikit-learn: \
sh script/setup.sh makes .venv with them (2 minutes, 6 GB); docs/flags.md lists train.py's flags"
else
    [ -z "${lacking:-}" ] || echo "the active environment lacks $lacking: using $root/.venv" >&2
    make_venv
    python="$root/.venv/bin/python"
fi
