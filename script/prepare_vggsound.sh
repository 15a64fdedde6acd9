#!/bin/sh
# Prepare VGGSound (DIR holds vggsound.csv, and MP4 files or tar.gz parts) and check it:
#   sh script/prepare_vggsound.sh --raw DIR
# Any flag of prepare.py may follow; a second call goes on where the first stopped.
. "$(dirname "$0")/setup.sh"

exec "$python" "$root/code/prepare.py" vggsound "$@"
