#!/bin/bash
# A scaling study: the same circuit on 1, 2, 4, … ranks up to all that the job has, one file of figures for each.
# Strong scaling as it stands; for weak scaling name a circuit with one more qubit for each doubling.
#
#     sbatch --nodes=16 jobs/scaling.sh mine.qasm
#     jq -s 'map({ranks: .metadata.ranks, seconds: .metadata.seconds.total})' scaling-*.json
#
#SBATCH --job-name=qsimenv-scaling
#SBATCH --output=%x-%j.out          # what the script prints, in the folder from which you submit
#SBATCH --nodes=2                   # a power of two
#SBATCH --exclusive                 # nobody else in the figures
#SBATCH --time=01:00:00

export PATH=$PWD/.venv/bin:$PATH             # where qsimenv is; or: module load …, conda activate …

# On other nodes mpirun has daemons, which tidy up after its end; the job waits for them.
trap 'while pgrep --session 0 srun >/dev/null; do sleep 0.1; done' EXIT

circuit=${1:-examples/ghz.qasm}
ranks_per_node=${RANKS_PER_NODE:-2}
for ((ranks = 1; ranks <= ranks_per_node * SLURM_JOB_NUM_NODES; ranks *= 2)); do
    for ((repeat = 1; repeat <= ${REPEATS:-3}; repeat++)); do    # any run may be disturbed, and the first one compiles
        mpirun -n "$ranks" --map-by "ppr:$ranks_per_node:node:OVERSUBSCRIBE" --bind-to none \
            qsimenv run "$circuit" --shots 1000 --seed 7 --metadata --json \
            >"scaling-$SLURM_JOB_ID-$ranks-$repeat.json" || exit
    done
    echo "$ranks ranks: done"
done
