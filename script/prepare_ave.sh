#!/bin/sh
# Prepare AVE (DIR holds trainSet.txt, valSet.txt, testSet.txt and the MP4 files) and check it:
#   sh script/prepare_ave.sh --raw DIR
# Any flag of prepare.py may follow; a second call goes on where the first stopped.
. "$(dirname "$0")/setup.sh"

exec "$python" "$root/code/prepare.py" ave "$@"
