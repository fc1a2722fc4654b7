#!/bin/bash
#SBATCH --job-name=dask-ts
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=60G
#SBATCH --time=02:00:00
#
# One job: a scheduler and a client on the first node, a worker of as many slots as cores on every node.
#   sbatch deploy/slurm/cluster.sh main.ts [arguments]
# main.ts calls connect(): the address comes from the scheduler file in DASK_TS_SCHEDULER_FILE, as in
#   await connect({ schedulerFile: Deno.env.get("DASK_TS_SCHEDULER_FILE")! })
# Before, once, where there is a network: deno cache worker/main.ts worker/execute/main.ts main.ts
set -euo pipefail

PROGRAM=${1:?"the program is missing: sbatch cluster.sh main.ts"}
shift
PROJECT=${DASK_TS_PROJECT:-$HOME/dask-ts}
PYTHON=${DASK_TS_PYTHON:-$HOME/dask-python/bin/python}
INTERFACE=${DASK_TS_INTERFACE:-}

# A folder that all nodes share: for the scheduler file alone, no data passes there.
export DASK_TS_SCHEDULER_FILE=${SLURM_SUBMIT_DIR:?}/scheduler-${SLURM_JOB_ID:?}.json
export DENO_NO_UPDATE_CHECK=1

cleanup() {
  # Workers end when their scheduler does.
  kill "${scheduler:-}" 2>/dev/null || true
  wait || true
  rm -f "$DASK_TS_SCHEDULER_FILE"
}
trap cleanup EXIT

interface=()
if [ -n "$INTERFACE" ]; then interface=(--interface "$INTERFACE"); fi

"$PYTHON" -m dask scheduler --port 0 --dashboard-address :0 --scheduler-file "$DASK_TS_SCHEDULER_FILE" \
  "${interface[@]}" &
scheduler=$!

# The workers wait for the file. Results live in memory and in RAM-backed files, both inside of --mem; what does not fit
# goes to the node's own disk.
srun --overlap --kill-on-bad-exit=0 deno run -A --quiet "$PROJECT/worker/main.ts" \
  --scheduler-file "$DASK_TS_SCHEDULER_FILE" --death-timeout 120s "${interface[@]}" \
  --nthreads "${SLURM_CPUS_PER_TASK:?}" --memory-limit "$((SLURM_MEM_PER_NODE * 9 / 10))MiB" \
  --local-directory "${TMPDIR:-/tmp}" &

until [ -s "$DASK_TS_SCHEDULER_FILE" ]; do
  kill -0 "$scheduler" # ends the job when the scheduler is gone
  sleep 1
done
deno run -A --quiet "$PROGRAM" "$@"
