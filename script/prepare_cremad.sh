#!/bin/sh
# Prepare CREMA-D (DIR holds AudioWAV and VideoFlash) and check it:
#   sh script/prepare_cremad.sh --raw DIR
# Any flag of prepare.py may follow; a second call goes on where the first stopped.
. "$(dirname "$0")/setup.sh"

exec "$python" "$root/code/prepare.py" cremad "$@"
