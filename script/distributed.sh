#!/bin/sh
# Train on several processes: one for each GPU of this machine, or PROCESSES of them.
#   PROCESSES=2 sh script/distributed.sh --method mmpareto [any train.py flag]
# On several machines, call it on each one with its NODE (from 0) and the address of machine 0:
#   NODES=2 NODE=0 MASTER=10.0.0.1 sh script/distributed.sh ... --out DIR_THAT_ALL_SEE
. "$(dirname "$0")/setup.sh"

! asks_help "$@" || exec "$python" "$root/code/train.py" "$@"
set -- "$root/code/train.py" "$@"
if [ "${NODES:-1}" -gt 1 ]; then
    set -- --nnodes "$NODES" --node_rank "${NODE:?the number of this machine, from 0}" \
        --master_addr "${MASTER:?the address of machine 0}" --master_port "${PORT:-29500}" "$@"
else
    set -- --standalone "$@"
fi
exec "$python" -m torch.distributed.run --nproc_per_node "${PROCESSES:-auto}" "$@"
