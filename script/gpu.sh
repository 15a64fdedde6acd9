#!/bin/sh
# What a CUDA GPU does with this code, in at most 8 minutes: the tests that need one, then samples a
# second, memory and waits of the released procedure and of ours, at CREMA-D's size. All of it goes
# to the screen and to a new file, runs/gpu-TIME.txt or
#   OUT=FILE sh script/gpu.sh
# Any flag of `code/benchmark.py throughput` may follow. LIMIT=900 gives it 900 seconds. Without a
# GPU it says so, measures nothing and exits 0, unless --device cpu follows. Exit code 1: a test or
# the measurement failed; 124: the time was over, the file has what was found until then.
# Where there is no .venv, a python3 with the packages in needs will do.
needs="torch torchvision numpy psutil tqdm"

# Print which of $needs the Python $1 lacks.
lacks() {
    "$1" -c 'import sys
from importlib.util import find_spec
print(*[name for name in sys.argv[1:] if not find_spec(name)])' $needs
}

skip() {
    echo "skipped: $1; --device cpu tries it on the CPU"
    exit 0
}

case " $* " in
*" --device cpu "* | *" --device=cpu "* | *" -h "* | *" --help "*) needs_gpu="" ;;
*) needs_gpu=yes ;;
esac
folder=$(dirname "$0")
[ -z "$needs_gpu" ] || ls /dev | grep -q '^nvidia[0-9]\|^dxg$' ||
    skip "this machine has no GPU with a CUDA driver"
if [ -z "${PYTHON:-}" ] && [ ! -e "$folder/../.venv" ] && [ "$(lacks python3 2>/dev/null)" = "" ] &&
    command -v python3 >/dev/null; then
    PYTHON=python3
fi
help_needs=$needs
. "$folder/setup.sh"

! asks_help "$@" || exec "$python" "$root/code/benchmark.py" throughput "$@"
lacking=$(lacks "$python")
[ -z "$lacking" ] || fail "$python lacks packages: $lacking: install them, or set \
PYTHON to a Python that has them"
[ -z "$needs_gpu" ] ||
    "$python" -W ignore -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
    skip "the torch of $python cannot use the GPU of this machine"

out=${OUT:-runs/gpu-$(date +%Y%m%d-%H%M%S).txt}
mkdir -p "$(dirname "$out")" 2>/dev/null || true
(set -C && : >"$out") 2>/dev/null ||
    fail "OUT=$out: it exists already or cannot be written: give another file"
end=$(($(date +%s) + ${LIMIT:-470}))
export PYTHONUNBUFFERED=1 # the file has each line at once

# Run a command of this Python for the time that is left.
bounded() {
    left=$((end - $(date +%s)))
    [ "$left" -gt 0 ] || return 124
    timeout --foreground --signal INT --kill-after 10 "$left" "$python" "$@"
}

report() {
    trap 'echo "ended with exit code 130"; exit 130' INT TERM # once the running command has ended
    code=0
    needs="pytest sklearn filelock"
    lacking=$(lacks "$python")
    if [ "$lacking" ]; then
        echo "tests left out: $python lacks $lacking (sklearn is called scikit-learn)"
    else
        (cd "$root" && bounded -m pytest -m cuda -W ignore -v -rs --no-header \
            -p no:cacheprovider tests/run/test_cuda.py) || code=1
    fi
    bounded "$root/code/benchmark.py" throughput --seconds 40 "$@" || code=$?
    [ "$code" = 0 ] || echo "ended with exit code $code"
    return "$code"
}

trap 'exit 130' INT TERM
echo "writing to $out" >&2
# The exit code of report goes past tee, which lives on through Ctrl-C for the last lines.
{ code=$({ { report "$@" 3>&- || echo $? >&3; } | tee -i "$out" >&4; } 3>&1); } 4>&1
exit "${code:-0}"
