// Sums of Pauli strings that flip the same bits. pauli_cupy compiles this; pauli_numba has the method: all strings with
// one mask of flipped bits share the products conj(other[j]) own[i], i = j ^ mask; a tile of them is transformed by Walsh
// and Hadamard in shared memory, after which number z of the tile is its sum with the signs of z.

__device__ void transform(double* tile, int bits)
{
    for (int k = 0; k < bits; k++) {
        EACH(pair, 1 << (bits - 1)) {
            int low = pair >> k << (k + 1) | (pair & ((1 << k) - 1)), high = low | 1 << k;
            double x = tile[low], y = tile[high];
            tile[low] = x + y;
            tile[high] = x - y;
        }
        __syncthreads();
    }
}

// totals[thread block, term]: sums over tiles of 2**bits products, those of terms before `turned` of their real parts,
// the others of their imaginary parts. The other planes are the piece from `offset` on.
extern "C" __global__ void __launch_bounds__(THREADS) pauli_sums(
    const REAL* re, const REAL* im, const REAL* other_re, const REAL* other_im, integer offset, integer rank_index,
    integer mask, int bits, integer num_tiles, const integer* z_masks, int turned, int terms, double* totals)
{
    SHARED_BYTES(shared);
    double* tile = (double*)shared;
    const integer low = ((integer)1 << bits) - 1;
    EACH(term, terms)
        totals[(integer)blockIdx.x * terms + term] = 0;
    for (integer number = blockIdx.x; number < num_tiles; number += gridDim.x) {
        const integer theirs = number << bits, ours = ((theirs + offset) ^ mask) & ~low;
        for (int imaginary = 0; imaginary < 2; imaginary++) {
            const int first = imaginary ? turned : 0, last = imaginary ? terms : turned;
            if (first == last)
                continue;
            EACH(k, 1 << bits) {
                integer i = ours | (k ^ (mask & low)), j = theirs | k;
                double x = re[i], y = im[i], u = other_re[j], v = other_im[j];
                tile[i & low] = imaginary ? u * y - v * x : u * x + v * y;
            }
            __syncthreads();
            transform(tile, bits);
            EACH(k, last - first) {
                integer z = z_masks[first + k];
                double sum = tile[z & low];
                totals[(integer)blockIdx.x * terms + first + k] += is_odd((ours | rank_index) & z) ? -sum : sum;
            }
            __syncthreads();
        }
    }
}

// Add sum_t c_t (-1)**popcount((index | i) & z_t) psi[i] to the amplitude at i ^ mask of the other planes. The coefficients
// of terms from `turned` on are imaginary.
extern "C" __global__ void add_pauli_sum(
    const REAL* re, const REAL* im, integer index, REAL* out_re, REAL* out_im, integer mask,
    const integer* z_masks, const double* coefficients, int turned, int terms, integer count)
{
    if (MINE >= count)
        return;
    const integer j = MINE ^ mask;
    double c = 0, s = 0;
    for (int term = 0; term < terms; term++) {
        double signed_one = is_odd((index | MINE) & z_masks[term]) ? -coefficients[term] : coefficients[term];
        (term < turned ? c : s) += signed_one;
    }
    double x = re[MINE], y = im[MINE];
    out_re[j] += c * x - s * y;
    out_im[j] += c * y + s * x;
}
