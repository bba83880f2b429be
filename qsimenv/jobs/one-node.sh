#!/bin/bash
# A service on one node, and circuits that are run on it.
#
#     sbatch jobs/one-node.sh                       the examples
#     sbatch jobs/one-node.sh mine/*.qasm           circuits of your own
#
# Lines with #SBATCH are read by sbatch, as if they stood on its command line; sbatch's own options win over them.
#SBATCH --job-name=qsimenv-one-node
#SBATCH --output=%x-%j.out          # what the script prints, in the folder from which you submit
#SBATCH --nodes=1
#SBATCH --exclusive                 # all cores of the node
#SBATCH --time=00:10:00
#SBATCH --signal=B:USR1@120         # two minutes before the time is up this script gets SIGUSR1

export PATH=$PWD/.venv/bin:$PATH                         # where qsimenv is; or: module load …, conda activate …
export QSIMENV_RUN_FOLDER=$PWD/qsimenv-$SLURM_JOB_ID     # the service's files: a folder that all nodes share

# However this script ends, the service ends with it. `run` keeps the shell ready for signals while a command runs.
run() { "$@" & wait "$!"; }
trap 'qsimenv stop' EXIT
trap 'echo "the time is nearly up: stopping" >&2; exit 75' USR1
trap 'exit 143' TERM                                     # scancel

run qsimenv start || exit
run qsimenv submit "${@:-examples/ghz.qasm}" --shots 1000 --seed 7 --wait
