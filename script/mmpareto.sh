#!/bin/sh
# Train with MMPareto. Any flag of train.py may follow, as in
#   sh script/mmpareto.sh --dataset cgmnist --data_root DIR --random_seed 1
. "$(dirname "$0")/setup.sh"

exec "$python" "$root/code/train.py" \
    --method mmpareto \
    "$@"
