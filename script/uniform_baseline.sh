#!/bin/sh
# Train the uniform baseline: the joint and all unimodal losses with weight 1.
# Any flag of train.py may follow.
. "$(dirname "$0")/setup.sh"

exec "$python" "$root/code/train.py" \
    --method uniform \
    "$@"
