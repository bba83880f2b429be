#!/bin/bash
# Many circuits on several nodes: one service over all of them, which deals the circuits out to its workers.
#
#     sbatch --nodes=8 jobs/many-circuits.sh mine/*.qasm
#
# Where the time limit comes first, or scancel, what is done is kept in a file beside the results; at the time limit the
# job's exit code is 75. Submitted again with the same circuits, from the same folder, it runs the others, none twice.
#
#SBATCH --job-name=qsimenv-many-circuits
#SBATCH --output=%x-%j.out          # what the script prints, in the folder from which you submit
#SBATCH --nodes=2
#SBATCH --exclusive                 # all cores of the nodes
#SBATCH --no-kill                   # where a node fails, the service goes on with the others
#SBATCH --time=00:30:00
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

(($#)) || set -- examples/{adder,bell,ghz,qft,teleport,tfim}.qasm
key=$({ cat "$@" && echo "${options[@]}"; } | sha256sum | cut -c 1-16)    # names this work: others have other names
kept=$PWD/qsimenv-$key.journal                           # what an earlier job has done of it
here=$(mktemp -d) || exit                                # on this node: the journal is not for network file systems
[ ! -e "$kept" ] || tar -C "$here" -xf "$kept" || exit

run qsimenv start --journal "$here/journal/tasks.sqlite" || exit
run qsimenv submit "$@" --key "$key" "${options[@]}" --wait --json >"$here/results.json"
status=$?
((status <= 1)) || finish 0 "$status"                    # 1: all have ended, some of them not well
qsimenv stop
mv "$here/results.json" "results-$SLURM_JOB_ID.json" && rm -f "$kept"
exit "$status"
