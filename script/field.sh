#!/bin/sh
# Compare every method on a prepared set, or on the built-in digits, each with a tuned learning rate.
# Any flag of compare.py and train.py may follow, as in
#   sh script/field.sh --dataset data/folder/mine --jobs 2
# A second call goes on where the first stopped.
. "$(dirname "$0")/setup.sh"

exec "$python" "$root/code/compare.py" \
    --methods joint unimodal uniform uniform:gamma=1.5 pareto:scale=2 mmpareto \
        uw dwa rlw gblend:weight_sum=3 ogm_ge greedy pmr agm mla smv lfm relearning inforeg cggm \
        mmcosine umt g2d dgl opm cml mbsd reconboost \
        pcgrad cagrad:scale=2 upgrad:scale=2 imtl_g:scale=2 aligned_mtl:scale=2 torchjd \
        gradnorm metabalance \
        uniform:fusion=cosine uniform:fusion=shared_head uniform:fusion=boosted \
        uniform:fusion=mean uniform:fusion=mmtm \
    --tune learning_rate=0.00125,0.005,0.02,0.08,0.32,1.28 --tune_seeds 100,101 --seeds 0-4 --epochs 20 \
    "$@"
