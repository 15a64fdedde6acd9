#!/bin/sh
# Figure 1 of the paper, and a page with it: cosines of the uniform baseline's gradients, accuracies
# of joint and unimodal predictions, gradient magnitudes after the first and after the last epoch.
# Any flag of compare.py and train.py may follow, except --out: OUT names the folder, as in
#   OUT=DIR sh script/figure1.sh --encoder resnet18 --epochs 6
# A second call goes on where the first stopped.
. "$(dirname "$0")/setup.sh"

out=${OUT:-runs/figure1}
case " $* " in
*" --out"* | *" --ckpt_path"*) fail "--out: say OUT=DIR sh script/figure1.sh" ;;
esac
! asks_help "$@" || exec "$python" "$root/code/compare.py" --help
set -- --encoder cnn --epochs 10 --seeds 0,1,2 --jobs 2 \
    --methods joint,unimodal,uniform:observe,pareto,mmpareto "$@"

# At a constant learning rate the state after one epoch does not depend on how many follow.
"$python" "$root/code/compare.py" "$@" --methods uniform:observe --seeds 0 --epochs 1 \
    --out "$out/early"
"$python" "$root/code/compare.py" --baseline uniform:observe "$@" --out "$out"
"$python" "$root/code/analyze.py" "$out" \
    --checkpoints "$out/early/uniform-observe-s0/last.pt" "$out/uniform-observe-s0/last.pt"
