#!/bin/bash
# A scan over a parameter as a job array: Slurm runs this script once for each index, wherever a core is free, and each
# run takes the value that belongs to its index. For hundreds of values of a small circuit one service is quicker
# (many-circuits.sh); an array suits runs of minutes to hours that need not wait for each other.
#
#     sbatch jobs/parameter-scan.sh
#     tail --lines=1 qsimenv-scan-*.out
#
# Submitted again, from the same folder, it runs only what has no result yet. For runs of hours add to `qsimenv run`
# --checkpoint "$energy.checkpoint" (and #SBATCH --signal=B:USR1@120): then they go on in their middle, too.
#
#SBATCH --job-name=qsimenv-scan
#SBATCH --output=%x-%A-%a.out       # %A: the array's number, %a: the index
#SBATCH --array=0-3%16              # indices 0 to 3, sixteen at once at most
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --time=00:10:00

export PATH=$PWD/.venv/bin:$PATH             # where qsimenv is; or: module load …, conda activate …

theta=$(awk -v k="$SLURM_ARRAY_TASK_ID" 'BEGIN { print -0.4 + 0.1 * k }')
hydrogen="-1.05237*II+0.39794*IZ-0.39794*ZI-0.01128*ZZ+0.18093*XX"
energy=qsimenv-scan-theta=$theta.json
if [ -e "$energy" ]; then
    echo "theta = $theta: $(cat "$energy")"
    exit
fi
answer=$(qsimenv run examples/ansatz/hydrogen.qasm --parameter "theta=$theta" --observable "$hydrogen" --json) || exit
echo "$answer" >"$energy.new" && mv "$energy.new" "$energy" || exit
echo "theta = $theta: $answer"
