#!/bin/sh
# Prepare data of your own (DIR holds clips.csv and what it lists) and check it:
#   sh script/prepare_folder.sh --raw DIR --out data/folder/mine
# Any flag of prepare.py may follow; a second call goes on where the first stopped.
. "$(dirname "$0")/setup.sh"

exec "$python" "$root/code/prepare.py" folder "$@"
