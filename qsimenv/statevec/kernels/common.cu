// What the CUDA sources share; every module is compiled from this file and the others, with REAL (float or double) and
// THREADS (of a thread block) as macros. Nothing here is CUDA's alone: hipRTC compiles the same text.

typedef long long integer;

#ifndef SHARED_BYTES
#define SHARED_BYTES(name) extern __shared__ __align__(16) unsigned char name[]
#endif

// A phase of a thread block: all numbers below a count, in strides of its threads. Not unrolled: other threads hide what
// one waits for, and registers are what the number of threads hangs on.
#define EACH(number, count) _Pragma("unroll 1") for (int number = threadIdx.x; number < (count); number += THREADS)
// The number of a thread among those of the whole grid.
#define MINE ((integer)blockIdx.x * THREADS + threadIdx.x)

__device__ inline bool is_odd(integer number)
{
    number ^= number >> 32;
    number ^= number >> 16;
    number ^= number >> 8;
    number ^= number >> 4;
    return 0x6996 >> (number & 15) & 1;
}

// Make room in a number for bits at some positions, lowest first.
__device__ inline integer spread(integer number, int count, const integer* positions)
{
    for (int k = 0; k < count; k++) {
        integer position = positions[k];
        number = number >> position << (position + 1) | (number & (((integer)1 << position) - 1));
    }
    return number;
}

// A number whose bits go to the given positions.
__device__ inline integer deposited(integer number, int count, const integer* positions)
{
    integer index = 0;
    for (int k = 0; k < count; k++)
        index |= (number >> k & 1) << positions[k];
    return index;
}
