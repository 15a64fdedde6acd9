#!/bin/sh
# Train the main methods with three seeds and print one table of their test accuracies.
# Any flag of compare.py and train.py may follow; a second call goes on where the first stopped.
. "$(dirname "$0")/setup.sh"

exec "$python" "$root/code/compare.py" \
    --methods joint,unimodal,uniform,pareto,mmpareto \
    --seeds 0,1,2 \
    "$@"
