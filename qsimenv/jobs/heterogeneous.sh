#!/bin/bash
# An application on a classical node, the simulation on other nodes, in one heterogeneous job: the two groups start
# together, each with the nodes that suit it. The script runs on the first node of group 0, and so does the application;
# it does not know that its quantum device is a simulation, and its node carries none of it.
#
#     sbatch jobs/heterogeneous.sh                  examples/qiskit_application.py
#     sbatch jobs/heterogeneous.sh mine.py
#
# Group 0: the application.
#SBATCH --job-name=qsimenv-heterogeneous
#SBATCH --output=%x-%j.out          # what the script prints, in the folder from which you submit
#SBATCH --partition=compute
#SBATCH --nodes=1
#SBATCH --time=00:30:00
#SBATCH --signal=B:USR1@120         # two minutes before the time is up this script gets SIGUSR1
#
# Group 1: the simulation, on nodes that Slurm counts as a quantum computer (GRES qc), as a job for hardware would ask.
#SBATCH hetjob
#SBATCH --partition=quantum
#SBATCH --nodes=2
#SBATCH --gres=qc:1
#SBATCH --exclusive
#SBATCH --time=00:30:00

export PATH=$PWD/.venv/bin:$PATH                         # where qsimenv is; or: module load …, conda activate …
export QSIMENV_RUN_FOLDER=$PWD/qsimenv-$SLURM_JOB_ID     # the service's files: a folder that all nodes share

# However this script ends, the service ends with it. `run` keeps the shell ready for signals while a command runs.
run() { "$@" & wait "$!"; }
trap 'qsimenv stop' EXIT
trap 'echo "the time is nearly up: stopping" >&2; exit 75' USR1
trap 'exit 143' TERM                                     # scancel

run qsimenv start --het-group 1 || exit
qsimenv status
run python "${@:-examples/qiskit_application.py}"
