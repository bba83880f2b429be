// A sweep: every thread block takes a block of the state into shared memory, applies all rows of ops, writes it back.
//
// sweep_cupy compiles this with its sizes and the columns and kinds of rows.py as macros (its REAL is REAL_KIND). Each phase is a loop over the block in strides of THREADS between two barriers, without warp intrinsics:
// it is right for any number of threads, on NVIDIA and AMD, and with one thread it is plain sequential C++.
//
// A number of the block lies in shared memory at skewed(number): the bits above the banks are added to those that
// choose the bank, so that numbers a power of two apart, which gates touch together, lie in different banks.

#define BANK_BITS (sizeof(REAL) == 4 ? 5 : 4)
#define PER_THREAD ((1 << MOST_BLOCK_BITS) / THREADS)

struct Phasor {
    REAL c, s;
};

__device__ inline Phasor times(Phasor a, Phasor b)
{
    return {a.c * b.c - a.s * b.s, a.c * b.s + a.s * b.c};
}

struct Block {
    REAL* x;
    REAL* y;
    int bits;
    integer index;  // of its first amplitude, the rank's part included
};

// The room beside the planes of a block; sweep_cupy knows its size as _room_bytes.
struct Room {
    double partial[MOST_SLOTS][PARTS];
    Phasor turns[MOST_SLOTS];
    Phasor high[1 << (MOST_BLOCK_BITS - LEAST_ROW_BITS)];
};

__device__ inline int skewed(int number)
{
    return number ^ (number >> BANK_BITS & ((1 << BANK_BITS) - 1));
}

// Make room in a number for the fixed positions of a row.
__device__ inline int widened(int number, const integer* row, int count)
{
    return (int)spread(number, count, row + FIXED);
}

// The exclusive or of the distances that the bits of a number pick.
template <int COUNT>
__device__ inline int apart(int number, const int* distance)
{
    int sum = 0;
#pragma unroll
    for (int k = 0; k < COUNT; k++)
        sum ^= number >> k & 1 ? distance[k] : 0;
    return sum;
}

// --- rotations: [[1, p], [-p, 1]] on COUNT bits at once, 2**COUNT numbers in registers ---

template <int COUNT>
__device__ void rotate_tiles(REAL* plane, int bits, const integer* row, const REAL* slopes)
{
    int distance[COUNT];
    REAL slope[COUNT];
#pragma unroll
    for (int k = 0; k < COUNT; k++) {
        distance[k] = skewed(1 << row[TARGETS + k]);
        slope[k] = slopes[k];
    }
    EACH(tile, 1 << (bits - COUNT)) {
        int start = skewed(widened(tile, row, COUNT));
        REAL held[1 << COUNT];
#pragma unroll
        for (int n = 0; n < 1 << COUNT; n++)
            held[n] = plane[start ^ apart<COUNT>(n, distance)];
#pragma unroll
        for (int k = 0; k < COUNT; k++)
#pragma unroll
            for (int n = 0; n < 1 << COUNT; n++)
                if (!(n >> k & 1)) {
                    REAL low = held[n], high = held[n | 1 << k];
                    held[n] = low + slope[k] * high;
                    held[n | 1 << k] = high - slope[k] * low;
                }
#pragma unroll
        for (int n = 0; n < 1 << COUNT; n++)
            plane[start ^ apart<COUNT>(n, distance)] = held[n];
    }
}

template <int COUNT>
__device__ void rotate_planes(const Block& block, const integer* row, const REAL* slopes)
{
    rotate_tiles<COUNT>(block.x, block.bits, row, slopes);
    rotate_tiles<COUNT>(block.y, block.bits, row, slopes);
}

__device__ __noinline__ void rotate(const Block& block, const integer* row, const REAL* coefficients)
{
    const REAL* slopes = coefficients + row[OFFSET];
    switch (row[NUM_TARGETS]) {
    case 1: return rotate_planes<1>(block, row, slopes);
    case 2: return rotate_planes<2>(block, row, slopes);
    case 3: return rotate_planes<3>(block, row, slopes);
    default: return rotate_planes<4>(block, row, slopes);
    }
}

// --- quadratic phases; see phase_rows.py ---

// What the bits outside the block add: an angle for each slot (a constant, then the block's bits), as a phasor.
__device__ void turn_by_outside(
    const Block& block, const integer* terms, const REAL* angles, int entries, int slots, Room& room)
{
    EACH(place, MOST_SLOTS * PARTS) {
        int slot = place / PARTS, part = place % PARTS;
        double sum = 0;
        for (int entry = part; slot < slots && entry < entries; entry += PARTS) {
            integer mask = terms[2 * entry];
            if (terms[2 * entry + 1] == slot && (block.index & mask) == mask)
                sum += angles[entry];
        }
        room.partial[slot][part] = sum;
    }
    __syncthreads();
    EACH(slot, slots) {
        double sum = 0;
        for (int part = 0; part < PARTS; part++)
            sum += room.partial[slot][part];
        room.turns[slot] = {(REAL)cos(sum), (REAL)sin(sum)};
    }
    __syncthreads();
}

__device__ inline Phasor turned(Phasor factor, int number, const Phasor* turns)
{
    for (int k = 0; number >> k; k++)
        if (number >> k & 1)
            factor = times(factor, turns[k]);
    return factor;
}

// Each thread keeps to one number of a row and walks over the rows in the order of Gray's code: the factor of the next
// row differs in one outer bit, and phasors are undone by their conjugates.
__device__ __noinline__ void apply_phases(
    const Block& block, const integer* row, const REAL* coefficients, const integer* tables, Room& room)
{
    const int entries = (int)row[NUM_ENTRIES], row_bits = (int)row[TILE_BITS];
    const int inner = (int)row[INNER_BITS], high_bits = inner + (int)row[OUTER_BITS];
    const int width = 1 << row_bits, high = 1 << high_bits;
    const integer* row_places = tables + row[TABLE] + 2 * entries;
    const integer* inner_places = row_places + width;
    const integer* outer_places = inner_places + (1 << inner);
    const REAL* row_factors = coefficients + row[OFFSET] + entries;
    const REAL* outer_factors = row_factors + 2 * width;
    const REAL* high_factors = outer_factors + 2 * width * (high_bits - inner);
    const integer* parity = row[PARITY] ? tables + row[PARITY] : nullptr;
    if (entries)
        turn_by_outside(block, tables + row[TABLE], coefficients + row[OFFSET], entries, 1 + row_bits + high_bits, room);
    EACH(number, high) {
        Phasor factor = {high_factors[number], high_factors[high + number]};
        if (entries)
            factor = turned(times(factor, room.turns[0]), number, room.turns + 1 + row_bits);
        room.high[number] = factor;
    }
    __syncthreads();
    int shares = THREADS >> row_bits;
    shares = shares < 1 ? 1 : shares > high ? high : shares;
    const int steps = high / shares;
    EACH(work, width * shares) {
        const int column = work & (width - 1), first = (work >> row_bits) * steps;
        Phasor factor = {row_factors[column], row_factors[width + column]};
        if (entries)
            factor = turned(factor, column, room.turns + 1);
        int number = first ^ first >> 1;
        for (int k = inner; k < high_bits; k++)
            if (number >> k & 1) {
                const REAL* table = outer_factors + 2 * width * (k - inner) + column;
                factor = times(factor, {table[0], table[width]});
            }
        for (int step = 0;; ) {
            int to = (int)(row[BASE] + row_places[column] + inner_places[number & ((1 << inner) - 1)]
                           + outer_places[number >> inner]);
            to = skewed(to);
            Phasor f = times(factor, room.high[number]);
            if (parity) {
                bool odd = is_odd(number & ((1 << inner) - 1) & parity[2]) ^ is_odd(number >> inner & parity[3])
                    ^ is_odd(block.index & parity[4]);
                const REAL* table = coefficients + parity[odd] + column;
                f = times(f, {table[0], table[width]});
            }
            REAL x = block.x[to], y = block.y[to];
            block.x[to] = f.c * x - f.s * y;
            block.y[to] = f.s * x + f.c * y;
            if (++step == steps)
                break;
            int changed = 0;
            while (!((first + step) >> changed & 1))
                changed++;
            number ^= 1 << changed;
            if (changed >= inner) {
                const REAL* table = outer_factors + 2 * width * (changed - inner) + column;
                REAL s = table[width];
                factor = times(factor, {table[0], number >> changed & 1 ? s : -s});
            }
        }
    }
}

// --- affine permutations: number t comes from map(t) ^ shift; a plane goes through the registers of all threads ---

__device__ __noinline__ void permute(const Block& block, const integer* row, const integer* tables)
{
    const integer* at = tables + row[TABLE];
    int shift = (int)at[0];
    for (int entry = 0; entry < row[NUM_ENTRIES]; entry++)
        if (is_odd(block.index & at[1 + 2 * entry]))
            shift ^= (int)at[2 + 2 * entry];
    at += 1 + 2 * row[NUM_ENTRIES];
    at += at[0];
    const int low = block.bits < 8 ? block.bits : 8, size = 1 << block.bits;
    const integer* high_sources = at + (1 << low);
    for (int which = 0; which < 2; which++) {
        REAL* plane = which ? block.y : block.x;
        REAL held[PER_THREAD];
#pragma unroll
        for (int k = 0; k < PER_THREAD; k++) {
            int number = threadIdx.x + k * THREADS;
            if (number < size)
                held[k] = plane[skewed((int)(at[number & ((1 << low) - 1)] ^ high_sources[number >> low]) ^ shift)];
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < PER_THREAD; k++) {
            int number = threadIdx.x + k * THREADS;
            if (number < size)
                plane[skewed(number)] = held[k];
        }
    }
}

// --- ops that stay what they are, under the controls of their row ---

__device__ __noinline__ void phase(const Block& block, const integer* row, const REAL* coefficients)
{
    const int count = (int)row[NUM_FIXED];
    const Phasor f = {coefficients[row[OFFSET]], coefficients[row[OFFSET] + 1]};
    EACH(number, 1 << (block.bits - count)) {
        int at = skewed(widened(number, row, count) | (int)row[CONTROL_VALUE]);
        REAL x = block.x[at], y = block.y[at];
        block.x[at] = f.c * x - f.s * y;
        block.y[at] = f.s * x + f.c * y;
    }
}

__device__ __noinline__ void one_target(const Block& block, const integer* row, const REAL* coefficients)
{
    const int count = (int)row[NUM_FIXED], distance = skewed(1 << row[TARGETS]);
    const REAL* m = coefficients + row[OFFSET];
    EACH(number, 1 << (block.bits - count)) {
        int at = skewed(widened(number, row, count) | (int)row[CONTROL_VALUE]), other = at ^ distance;
        REAL xr = block.x[at], xi = block.y[at], yr = block.x[other], yi = block.y[other];
        if (row[KIND] == FLIP) {
            block.x[at] = yr, block.y[at] = yi, block.x[other] = xr, block.y[other] = xi;
        } else if (row[KIND] == REAL_KIND) {
            block.x[at] = m[0] * xr + m[2] * yr;
            block.y[at] = m[0] * xi + m[2] * yi;
            block.x[other] = m[4] * xr + m[6] * yr;
            block.y[other] = m[4] * xi + m[6] * yi;
        } else {
            block.x[at] = m[0] * xr - m[1] * xi + m[2] * yr - m[3] * yi;
            block.y[at] = m[0] * xi + m[1] * xr + m[2] * yi + m[3] * yr;
            block.x[other] = m[4] * xr - m[5] * xi + m[6] * yr - m[7] * yi;
            block.y[other] = m[4] * xi + m[5] * xr + m[6] * yi + m[7] * yr;
        }
    }
}

// A dense matrix on two bits without controls; its coefficients come by output and by the pattern of input ^ output.
__device__ __noinline__ void two_targets(const Block& block, const integer* row, const REAL* coefficients)
{
    const int distance[2] = {skewed(1 << row[TARGETS]), skewed(1 << row[TARGETS + 1])};
    const integer low = row[TARGETS], high = row[TARGETS + 1];
    const REAL* m = coefficients + row[OFFSET];
    EACH(number, 1 << (block.bits - 2)) {
        int start = number >> low << (low + 1) | (number & ((1 << low) - 1));
        start = skewed(start >> high << (high + 1) | (start & ((1 << high) - 1)));
        REAL x[4], y[4];
#pragma unroll
        for (int n = 0; n < 4; n++) {
            x[n] = block.x[start ^ apart<2>(n, distance)];
            y[n] = block.y[start ^ apart<2>(n, distance)];
        }
#pragma unroll
        for (int n = 0; n < 4; n++) {
            REAL p = 0, q = 0;
#pragma unroll
            for (int pattern = 0; pattern < 4; pattern++) {
                REAL c = m[3 * (4 * n + pattern)], s = m[3 * (4 * n + pattern) + 1];
                p += c * x[n ^ pattern] - s * y[n ^ pattern];
                q += c * y[n ^ pattern] + s * x[n ^ pattern];
            }
            block.x[start ^ apart<2>(n, distance)] = p;
            block.y[start ^ apart<2>(n, distance)] = q;
        }
    }
}

// Any dense matrix: each thread makes its own numbers from those of all, and writes them when all have read.
__device__ __noinline__ void many_targets(const Block& block, const integer* row, const REAL* coefficients)
{
    const int targets = (int)row[NUM_TARGETS], columns = 1 << targets, size = 1 << block.bits;
    int control_mask = 0;
    for (int k = 0; k < row[NUM_FIXED]; k++)
        control_mask |= 1 << row[FIXED + k];
    for (int k = 0; k < targets; k++)
        control_mask &= ~(1 << row[TARGETS + k]);
    REAL p[PER_THREAD], q[PER_THREAD];
#pragma unroll 1
    for (int k = 0; k < PER_THREAD; k++) {
        int number = threadIdx.x + k * THREADS;
        p[k] = q[k] = 0;
        if (number >= size || (number & control_mask) != row[CONTROL_VALUE])
            continue;
        int line = 0, start = number;
        for (int j = 0; j < targets; j++) {
            line |= (number >> row[TARGETS + j] & 1) << j;
            start &= ~(1 << row[TARGETS + j]);
        }
        const REAL* m = coefficients + row[OFFSET] + 2 * line * columns;
        for (int column = 0; column < columns; column++) {
            int from = start;
            for (int j = 0; j < targets; j++)
                from |= (column >> j & 1) << row[TARGETS + j];
            from = skewed(from);
            p[k] += m[2 * column] * block.x[from] - m[2 * column + 1] * block.y[from];
            q[k] += m[2 * column] * block.y[from] + m[2 * column + 1] * block.x[from];
        }
    }
    __syncthreads();
#pragma unroll 1
    for (int k = 0; k < PER_THREAD; k++) {
        int number = threadIdx.x + k * THREADS;
        if (number < size && (number & control_mask) == row[CONTROL_VALUE]) {
            block.x[skewed(number)] = p[k];
            block.y[skewed(number)] = q[k];
        }
    }
}

__device__ void apply(const Block& block, const integer* row, const REAL* coefficients, const integer* tables, Room& room)
{
    switch (row[KIND]) {
    case ROTATE: return rotate(block, row, coefficients);
    case QUADRATIC: return apply_phases(block, row, coefficients, tables, room);
    case PERMUTE: return permute(block, row, tables);
    case TWO_TARGETS: return two_targets(block, row, coefficients);
    case PHASE: return phase(block, row, coefficients);
    default:
        if (row[NUM_TARGETS] == 1)
            one_target(block, row, coefficients);
        else
            many_targets(block, row, coefficients);
    }
}

// Where an index has a bit of `before` there are only zeros, which are not read; where it has one of `after` there
// will be only zeros, and nothing is written. One thread block for each block of the state.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_AT_ONCE) sweep(
    REAL* re, REAL* im, int bits, int low_bits, int num_outer, int num_rows, const integer* offsets,
    const integer* outer, const integer* ops, const integer* tables, const REAL* coefficients, integer rank_index,
    integer before, integer after)
{
    SHARED_BYTES(shared);
    Room& room = *(Room*)shared;
    REAL* x = (REAL*)(shared + sizeof(Room));
    integer start = 0;
    for (int k = 0; k < num_outer; k++)
        start |= (integer)(blockIdx.x >> k & 1) << outer[k];
    const Block block = {x, x + (1 << bits), bits, rank_index | start};
    const int run = (1 << low_bits) - 1;
#pragma unroll 4
    for (int number = threadIdx.x; number < 1 << bits; number += THREADS) {
        integer offset = offsets[number >> low_bits], at = start + offset + (number & run);
        block.x[skewed(number)] = offset & before ? 0 : re[at];
        block.y[skewed(number)] = offset & before ? 0 : im[at];
    }
    __syncthreads();
    for (const integer* row = ops; row < ops + num_rows * ROW; row += ROW)
        if ((block.index & row[OUTER_MASK]) == row[OUTER_VALUE]) {
            apply(block, row, coefficients, tables, room);
            __syncthreads();
        }
#pragma unroll 4
    for (int number = threadIdx.x; number < 1 << bits; number += THREADS) {
        integer offset = offsets[number >> low_bits], at = start + offset + (number & run);
        if (offset & after)
            continue;
        re[at] = block.x[skewed(number)];
        im[at] = block.y[skewed(number)];
    }
}
