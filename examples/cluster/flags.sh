#!/usr/bin/env bash
# Trains in several processes of one machine, each told by flags who it is. On several machines run
# the same line on each of them, with its own --process-id and the first one's address.
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
