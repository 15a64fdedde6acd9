#!/bin/sh
# MMPareto's parts on trial on six sets of real recordings (docs/claim_real_protocol.md).
# Any flag of studies/claim_real/run.py and those of compare.py that say how to run may follow, as in
#   sh script/claim_real.sh --raw DIR --jobs 2
# A second call goes on where the first stopped.
help_needs="torch numpy sklearn tqdm filelock msgspec soundfile cv2 torchaudio"
. "$(dirname "$0")/setup.sh"

exec "$python" "$root/studies/claim_real/run.py" \
    "$@"
