#!/usr/bin/env bash
# Train in several processes on one machine; flags identify each process. On several machines, run the
# same command on each of them, with its own --process-id and the address of the first machine.
#
#   examples/cluster/flags.sh COUNT PORT [options of gtddp train]
set -euo pipefail

count=$1 port=$2
shift 2
processes=()
trap 'kill "${processes[@]}" 2>/dev/null || true' INT TERM
for ((i = 0; i < count; i++)); do
    gtddp train "$@" --coordinator "127.0.0.1:$port" --num-processes "$count" --process-id "$i" &
    processes+=("$!")
done
status=0
for process in "${processes[@]}"; do
    wait "$process" || status=$?
done
exit "$status"
