#!/bin/bash
# A service on one node, and circuits that are run on it.
#
#     sbatch jobs/one-node.sh                       the examples
#     sbatch jobs/one-node.sh mine/*.qasm           circuits of your own
#
# Where the time limit comes first, or scancel, what is done is kept in a file; at the time limit the job's exit code is
# 75. Submitted again with the same circuits, from the same folder, it runs the others, none twice.
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

options=(--shots 1000 --seed 7)

# However this script ends, the service ends with it. `run` keeps the shell ready for signals while a command runs.
run() { "$@" & wait "$!"; }
finish() { # SECONDS STATUS: what runs may take so long to end, nothing new starts, what is done is kept
    trap '' USR1 TERM
    qsimenv stop --keep --grace "$1"
    [ ! -d "$here/journal" ] || { tar -C "$here" -cf "$kept.new" journal && mv "$kept.new" "$kept"; }
    exit "$2"
}
trap 'echo "the time is nearly up: submit this job again, and it goes on" >&2; finish 60 75' USR1
trap 'finish 0 143' TERM                                 # scancel
trap 'rm -rf "$here"' EXIT

(($#)) || set -- examples/ghz.qasm
key=$({ cat "$@" && echo "${options[@]}"; } | sha256sum | cut -c 1-16)    # names this work: others have other names
kept=$PWD/qsimenv-$key.journal                           # what an earlier job has done of it
here=$(mktemp -d) || exit                                # on this node: the journal is not for network file systems
[ ! -e "$kept" ] || tar -C "$here" -xf "$kept" || exit

run qsimenv start --journal "$here/journal/tasks.sqlite" || exit
run qsimenv submit "$@" --key "$key" "${options[@]}" --wait
status=$?
((status <= 1)) || finish 0 "$status"                    # 1: all have ended, some of them not well
qsimenv stop
rm -f "$kept"
exit "$status"
