#!/bin/sh
# Prepare CMU-MOSEI (FILE is a pickle of features, or a folder with one) and check it:
#   sh script/prepare_mosei.sh --raw FILE
# Any flag of prepare.py may follow; a second call goes on where the first stopped.
. "$(dirname "$0")/setup.sh"

exec "$python" "$root/code/prepare.py" mosei "$@"
