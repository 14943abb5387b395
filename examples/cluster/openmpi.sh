#!/usr/bin/env bash
# Train in processes started by Open MPI; a hostfile lists hosts and slots.
#
#   examples/cluster/openmpi.sh HOSTFILE COUNT [options of gtddp train]
#
# JAX reads the address of the launcher from Open MPI 4. Open MPI 5 no longer provides it, so set
# COORDINATOR=host:port there, the address of the host of rank 0.
set -euo pipefail

hostfile=$1 count=$2
shift 2
place='--distributed'
if [[ -n ${COORDINATOR:-} ]]; then
    place='--coordinator $COORDINATOR --num-processes $OMPI_COMM_WORLD_SIZE'
    place+=' --process-id $OMPI_COMM_WORLD_RANK'
    export COORDINATOR
fi
# shellcheck disable=SC2016  # each process expands its own rank
exec mpirun --hostfile "$hostfile" -np "$count" --map-by slot -x PATH ${COORDINATOR:+-x COORDINATOR} \
    bash -c "exec gtddp train $place"' "$@"' gtddp "$@"
