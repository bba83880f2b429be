#!/bin/bash
# Many circuits on several nodes: one service over all of them, which deals the circuits out to its workers.
#
#     sbatch --nodes=8 jobs/many-circuits.sh mine/*.qasm
#
#SBATCH --job-name=qsimenv-many-circuits
#SBATCH --output=%x-%j.out          # what the script prints, in the folder from which you submit
#SBATCH --nodes=2
#SBATCH --exclusive                 # all cores of the nodes
#SBATCH --time=00:30:00
#SBATCH --signal=B:USR1@120         # two minutes before the time is up this script gets SIGUSR1

export PATH=$PWD/.venv/bin:$PATH                         # where qsimenv is; or: module load …, conda activate …
export QSIMENV_RUN_FOLDER=$PWD/qsimenv-$SLURM_JOB_ID     # the service's files: a folder that all nodes share

# However this script ends, the service ends with it. `run` keeps the shell ready for signals while a command runs.
run() { "$@" & wait "$!"; }
trap 'qsimenv stop' EXIT
trap 'echo "the time is nearly up: stopping" >&2; exit 75' USR1
trap 'exit 143' TERM                                     # scancel

(($#)) || set -- examples/{adder,bell,ghz,qft,teleport,tfim}.qasm
run qsimenv start || exit
run qsimenv submit "$@" --shots 1000 --seed 7 --wait --json >"results-$SLURM_JOB_ID.json"
