#!/bin/sh
# Prepare Kinetics-Sounds (DIR holds MP4 files or the mirror's tar.gz parts) and check it:
#   sh script/prepare_kinetics_sounds.sh --raw DIR
# Any flag of prepare.py may follow; a second call goes on where the first stopped.
. "$(dirname "$0")/setup.sh"

exec "$python" "$root/code/prepare.py" kinetics_sounds "$@"
