#!/bin/sh
# Train the main methods with three seeds and print one table of their test scores.
# Any flag of compare.py and train.py may follow, as in
#   sh script/compare.sh --jobs 2 --tune learning_rate=0.01,0.002
# A second call goes on where the first stopped.
. "$(dirname "$0")/setup.sh"

exec "$python" "$root/code/compare.py" \
    --methods joint,unimodal,uniform,pareto,mmpareto \
    --seeds 0,1,2 \
    "$@"
