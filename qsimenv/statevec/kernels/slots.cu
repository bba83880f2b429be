// Copies and small changes of one plane, one amplitude a thread: the exchange's slots, zeros, projections, numbers by
// index. slots_cupy compiles this with REAL and THREADS as macros; all counts are of amplitudes.

extern "C" __global__ void pack(
    const REAL* plane, int num_positions, const integer* positions, integer value, integer start, REAL* piece, integer count)
{
    if (MINE < count)
        piece[MINE] = plane[spread(start + MINE, num_positions, positions) | value];
}

extern "C" __global__ void unpack(
    REAL* plane, int num_positions, const integer* positions, integer value, integer start, const REAL* piece, integer count)
{
    if (MINE < count)
        plane[spread(start + MINE, num_positions, positions) | value] = piece[MINE];
}

// Move the slot `source` to where `target` is, clear the others without a bit of `unset`; a thread for each number in
// a slot.
extern "C" __global__ void keep_slot(
    REAL* plane, int num_positions, const integer* positions, integer source, integer target, integer unset, integer count)
{
    if (MINE >= count)
        return;
    integer base = spread(MINE, num_positions, positions);
    REAL kept = plane[base | source];
    for (integer slot = 0; slot < (integer)1 << num_positions; slot++) {
        integer value = deposited(slot, num_positions, positions);
        if (value == target)
            plane[base | value] = kept;
        else if (!(value & unset))
            plane[base | value] = 0;
    }
}

// Put a number where the index has `value` at the bits of `mask`.
extern "C" __global__ void put(REAL* plane, integer mask, integer value, REAL number, integer count)
{
    if (MINE < count && (MINE & mask) == value)
        plane[MINE] = number;
}

// Multiply what has `value` at `bit` by a factor, clear the rest.
extern "C" __global__ void collapse(REAL* plane, int bit, integer value, REAL factor, integer count)
{
    if (MINE < count)
        plane[MINE] = (MINE >> bit & 1) == value ? factor * plane[MINE] : 0;
}

extern "C" __global__ void take(const REAL* plane, const integer* places, REAL* taken, integer count)
{
    if (MINE < count)
        taken[MINE] = plane[places[MINE]];
}
