#!/bin/sh
# Run the fast tests, or with --all every test; any flag of pytest may follow.
more_requirements=tests/requirements.txt
help_needs="torch numpy sklearn pytest xdist"
. "$(dirname "$0")/setup.sh"

selection="not slow"
if [ "${1:-}" = --all ]; then
    selection="slow or not slow"
    shift
fi
cd "$root"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # two processes, each small enough for one core
exec "$python" -m pytest -m "$selection" -n 2 --dist worksteal "$@"
