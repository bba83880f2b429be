// Weights (squared norms) by bits of the index, in double precision. sweep_cupy and sampling_cupy launch these.

#define SLOTS (THREADS > 32 ? THREADS : 32)

__device__ inline double weight(const REAL* re, const REAL* im, integer at)
{
    return (double)re[at] * (double)re[at] + (double)im[at] * (double)im[at];
}

// masses[row, part, lane]: weights by the value at some positions of the index (row) and by the lowest bits (lane, below
// width, at most 32), for one of `parts` equal parts of the rest. A thread block for each row and part; no position is
// below the width, and a part is a multiple of it.
extern "C" __global__ void __launch_bounds__(THREADS) marginal(
    const REAL* re, const REAL* im, int num_positions, const integer* positions, int width, int parts, integer part_count,
    double* masses)
{
    SHARED_BYTES(shared);
    double* sums = (double*)shared;
    const integer row = blockIdx.x / parts, part = blockIdx.x % parts;
    const integer base = deposited(row, num_positions, positions);
    EACH(slot, SLOTS) {
        double sum = 0;
        for (integer number = slot; number < part_count; number += SLOTS)
            sum += weight(re, im, base | spread(part * part_count + number, num_positions, positions));
        sums[slot] = sum;
    }
    __syncthreads();
    EACH(lane, width) {
        double sum = 0;
        for (int slot = lane; slot < SLOTS; slot += width)
            sum += sums[slot];
        masses[(integer)blockIdx.x * width + lane] = sum;
    }
}

// rows[node, bin]: the weight of the amplitudes at bases[node] | (bin at the bits of the chunk ^ flips) | any value at
// the bits that are summed over. A thread for each node and bin.
extern "C" __global__ void gather(
    const REAL* re, const REAL* im, const integer* bases, int num_chunk, const integer* chunk, integer flips,
    int num_summed, const integer* summed, double* rows, integer count)
{
    if (MINE >= count)
        return;
    integer bin = MINE & (((integer)1 << num_chunk) - 1);
    integer start = bases[MINE >> num_chunk] | (deposited(bin, num_chunk, chunk) ^ flips);
    double sum = 0;
    for (integer number = 0; number < (integer)1 << num_summed; number++)
        sum += weight(re, im, start | deposited(number, num_summed, summed));
    rows[MINE] = sum;
}
