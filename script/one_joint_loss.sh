#!/bin/sh
# Train the one-joint-loss baseline: only the fused prediction is trained.
# Any flag of train.py may follow.
. "$(dirname "$0")/setup.sh"

exec "$python" "$root/code/train.py" \
    --method joint \
    "$@"
