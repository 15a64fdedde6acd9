#!/bin/sh
# Prepare UPMC Food-101 (DIR holds images, and texts or the .jsonl files) and check it:
#   sh script/prepare_food101.sh --raw DIR
# Any flag of prepare.py may follow; a second call goes on where the first stopped.
. "$(dirname "$0")/setup.sh"

exec "$python" "$root/code/prepare.py" food101 "$@"
