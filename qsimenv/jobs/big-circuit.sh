#!/bin/bash
# One big circuit over several nodes. No service: mpirun starts the ranks, each holds a part of the state, and the job
# ends with the run. Every doubling of the ranks makes room for one more qubit.
#
#     sbatch --nodes=8 jobs/big-circuit.sh mine.qasm
#
#SBATCH --job-name=qsimenv-big-circuit
#SBATCH --output=%x-%j.out          # what the script prints, in the folder from which you submit
#SBATCH --nodes=2                   # a power of two
#SBATCH --exclusive                 # all cores and all memory of the nodes
#SBATCH --time=00:30:00

export PATH=$PWD/.venv/bin:$PATH             # where qsimenv is; or: module load …, conda activate …

# On other nodes mpirun has daemons, which tidy up after its end; the job waits for them.
trap 'while pgrep --session 0 srun >/dev/null; do sleep 0.1; done' EXIT

# Two ranks a node; better: one for each last-level cache (`lscpu | grep L3`), a power of two. `--bind-to none` lets a
# rank's threads use all cores; with more ranks bind them: --map-by ppr:8:node:pe=7 --bind-to core
ranks_per_node=${RANKS_PER_NODE:-2}
mpirun --map-by "ppr:$ranks_per_node:node:OVERSUBSCRIBE" --bind-to none \
    qsimenv run "${1:-examples/ghz.qasm}" --shots 1000 --seed 7 --metadata --json >"result-$SLURM_JOB_ID.json" || exit
# With the site's own MPI instead of Open MPI:
#     srun --ntasks-per-node="$ranks_per_node" qsimenv run …

python -m json.tool "result-$SLURM_JOB_ID.json"
