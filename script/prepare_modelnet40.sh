#!/bin/sh
# Prepare ModelNet40 (DIR holds CLASS/train and CLASS/test with twelve views) and check it:
#   sh script/prepare_modelnet40.sh --raw DIR
# Any flag of prepare.py may follow; a second call goes on where the first stopped.
. "$(dirname "$0")/setup.sh"

exec "$python" "$root/code/prepare.py" modelnet40 "$@"
