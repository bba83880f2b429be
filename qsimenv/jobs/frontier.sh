#!/bin/bash
# One big circuit on Frontier (OLCF): a rank for each of a node's eight GCDs, Cray MPICH, buffers on the GPU handed to
# MPI as they are. https://docs.olcf.ornl.gov/systems/frontier_user_guide.html
#
#     sbatch --account=PROJECT --nodes=128 jobs/frontier.sh mine.qasm
#
#SBATCH --job-name=qsimenv-frontier
#SBATCH --output=%x-%j.out          # what the script prints, in the folder from which you submit
#SBATCH --nodes=2                   # a power of two: 8 x 2 ranks
#SBATCH --partition=batch
#SBATCH --time=00:30:00
#SBATCH --gpus-per-node=8           # all eight GCDs, 64 GB each

module load PrgEnv-amd rocm cray-python cray-pmi
export PATH=$PWD/.venv/bin:$PATH             # a virtual environment made with cray-python, mpi4py built with cc

# Thousands of ranks that read compiled kernels from Lustre keep each other waiting: compile them once into a shared
# folder, on one compute node (NUMBA_CACHE_DIR=$PWD/.numba-cache qsimenv doctor --compile), and copy that to each node.
export NUMBA_CACHE_DIR=/dev/shm/numba-$SLURM_JOB_ID
srun --ntasks-per-node=1 cp -r "$PWD/.numba-cache" "$NUMBA_CACHE_DIR"

export MPICH_GPU_SUPPORT_ENABLED=1           # MPI reads and writes GPU memory
export MPICH_OFI_NIC_POLICY=NUMA             # each rank uses the network card next to it

# Eight ranks a node, seven cores each (the eighth of each L3 region is the system's), each with the GCD beside its
# cores: --gpu-bind=closest knows that region k has not GCD k but 4 5 2 3 6 7 0 1.
srun --ntasks-per-node=8 --cpus-per-task=7 --gpus-per-task=1 --gpu-bind=closest --kill-on-bad-exit=1 \
    qsimenv run "${1:-examples/ghz.qasm}" --shots 1000 --seed 7 --metadata --json >"result-$SLURM_JOB_ID.json"
status=$?
srun --ntasks-per-node=1 rm -rf "$NUMBA_CACHE_DIR"
exit "$status"

# For the service instead of a single circuit, as in many-circuits.sh:
#     qsimenv start --profile frontier
