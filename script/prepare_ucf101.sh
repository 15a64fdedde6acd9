#!/bin/sh
# Prepare UCF-101 (DIR holds jpegs_256 and tvl1_flow) and check it:
#   sh script/prepare_ucf101.sh --raw DIR
# Any flag of prepare.py may follow; a second call goes on where the first stopped.
. "$(dirname "$0")/setup.sh"

exec "$python" "$root/code/prepare.py" ucf101 "$@"
