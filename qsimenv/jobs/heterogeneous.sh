#!/bin/bash
# An application on a classical node, the simulation on other nodes, in one heterogeneous job: the two groups start
# together, each with the nodes that suit it. The script runs on the first node of group 0, and so does the application;
# it does not know that its quantum device is a simulation, and its node carries none of it.
#
#     sbatch jobs/heterogeneous.sh                  examples/qiskit_application.py
#     sbatch jobs/heterogeneous.sh mine.py
#
# Where the time limit comes first, or scancel, the service's journal is kept in a file; at the time limit the job's exit
# code is 75. Submitted again, from the same folder, the application starts anew on that journal: what it asks for with
# a key of its own (`qpm.async_run(tasks, key="step 3")`) and was done already is answered from it, and runs no more.
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
finish() { # SECONDS STATUS: what runs may take so long to end, nothing new starts, what is done is kept
    trap '' USR1 TERM
    kill "$!" 2>/dev/null                                # the application
    qsimenv stop --keep --grace "$1"
    [ ! -d "$here/journal" ] || { tar -C "$here" -cf "$kept.new" journal && mv "$kept.new" "$kept"; }
    exit "$2"
}
trap 'echo "the time is nearly up: submit this job again, and it goes on" >&2; finish 60 75' USR1
trap 'finish 0 143' TERM                                 # scancel
trap 'rm -rf "$here"' EXIT

(($#)) || set -- examples/qiskit_application.py
key=$({ cat "$1" && echo "$@"; } | sha256sum | cut -c 1-16)    # names this work: others have other names
kept=$PWD/qsimenv-$key.journal                           # what an earlier job has done of it
here=$(mktemp -d) || exit                                # on this node: the journal is not for network file systems
[ ! -e "$kept" ] || tar -C "$here" -xf "$kept" || exit

run qsimenv start --het-group 1 --journal "$here/journal/tasks.sqlite" || exit
qsimenv status
run python "$@" || finish 0 $?
qsimenv stop
rm -f "$kept"
