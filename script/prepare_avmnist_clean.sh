#!/bin/sh
# Prepare AV-MNIST anew, with sound and label in step (DIR holds recordings and MNIST/raw), and check it:
#   sh script/prepare_avmnist_clean.sh --raw DIR
# Any flag of prepare.py may follow; a second call goes on where the first stopped.
. "$(dirname "$0")/setup.sh"

exec "$python" "$root/code/prepare.py" avmnist_clean "$@"
