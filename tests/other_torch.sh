#!/bin/sh
# Run the fast tests with another torch and torchvision, in an environment of their own:
#   sh tests/other_torch.sh 2.11.0 0.26.0 [any flag of pytest]
set -eu
unset CDPATH
root=$(cd -P "$(dirname "$0")/.." && pwd)
torch=$1 torchvision=$2
shift 2
venv=${TMPDIR:-/tmp}/mmpareto-torch-$torch
[ -e "$venv" ] || python3 -m venv "$venv"
cd "$root"
"$venv/bin/python" -m pip install --quiet "torch==$torch" "torchvision==$torchvision" \
    -r requirements.txt -r tests/requirements.txt
# The types that torch declares for itself change with its version.
exec "$venv/bin/python" -m pytest -m "not slow" --deselect 'tests/repo/test_house.py::test_checkers[types]' "$@"
