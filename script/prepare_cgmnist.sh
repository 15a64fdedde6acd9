#!/bin/sh
# Prepare the archive of coloured MNIST (DIR holds one of its files, and MNIST) and check it:
#   sh script/prepare_cgmnist.sh --raw DIR
# Any flag of prepare.py may follow.
. "$(dirname "$0")/setup.sh"

exec "$python" "$root/code/prepare.py" cgmnist "$@"
