#!/bin/sh
# Which part of MMPareto does the work: its parts alone, compared seed by seed (docs/claim.md).
# Any flag of studies/claim/run.py and those of compare.py that say how to run may follow, as in
#   sh script/claim.sh --jobs 2
# A second call goes on where the first stopped.
help_needs="torch numpy sklearn tqdm filelock msgspec"
. "$(dirname "$0")/setup.sh"

exec "$python" "$root/studies/claim/run.py" \
    "$@"
