#!/bin/sh
# Two overlapping digits, one of them noisy: every method of multi-task learning with three seeds,
# and each task alone, in one table. Any flag of compare.py and train.py may follow, as in
#   sh script/multitask.sh --dataset multimnist --data_root DIR --train_size 10000
# A second call goes on where the first stopped.
. "$(dirname "$0")/setup.sh"

exec "$python" "$root/code/compare.py" \
    --dataset multidigits \
    --methods unimodal,uniform,pareto:scale=2,mmpareto,pcgrad,cagrad:scale=2,gradnorm,metabalance \
    --seeds 0,1,2 \
    "$@"
