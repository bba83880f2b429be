// CUDA's words for a C++ compiler: a grid runs block by block, and the threads of a block take turns from barrier to
// barrier, forwards or backwards. What lies between two barriers must not depend on that order; if it does, tests that
// run both orders see it. Shared memory is filled with NaNs before every block.
#include <math.h>
#include <string.h>
#include <ucontext.h>

#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#define __device__
#define __global__
#define __launch_bounds__(...)
#define __noinline__
#define __restrict__
#define SHARED_BYTES(name) unsigned char* name = stand_in::shared.data()

struct Dim {
    int x;
};
static Dim threadIdx, blockIdx, gridDim;

namespace stand_in {

static std::vector<unsigned char> shared;
static ucontext_t scheduler;

struct Thread {
    ucontext_t context;
    std::vector<char> stack;
    bool running = false;
};
static std::vector<Thread> threads(THREADS);
static void (*body)(void*);
static void* body_arguments;

static void run_thread()
{
    body(body_arguments);
    threads[threadIdx.x].running = false;
    swapcontext(&threads[threadIdx.x].context, &scheduler);
}

static void start(Thread& thread)
{
    thread.stack.resize(256 << 10);
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack.data();
    thread.context.uc_stack.ss_size = thread.stack.size();
    thread.context.uc_link = nullptr;
    makecontext(&thread.context, run_thread, 0);
    thread.running = true;
}

static void run_block(bool backwards)
{
    if (THREADS == 1) {
        threadIdx.x = 0;
        body(body_arguments);
        return;
    }
    for (Thread& thread : threads)
        start(thread);
    for (bool any = true; any;) {
        any = false;
        for (int turn = 0; turn < THREADS; turn++) {
            threadIdx.x = backwards ? THREADS - 1 - turn : turn;
            Thread& thread = threads[threadIdx.x];
            if (thread.running) {
                swapcontext(&scheduler, &thread.context);
                any = any || thread.running;
            }
        }
    }
}

template <class... A> struct Call {
    void (*kernel)(A...);
    void** arguments;
    template <size_t... I> void apply(std::index_sequence<I...>) { kernel(*(A*)arguments[I]...); }
    static void run(void* self) { ((Call*)self)->apply(std::index_sequence_for<A...>()); }
};

template <class... A>
int launch(void (*kernel)(A...), int count, void** arguments, int blocks, int shared_bytes, bool backwards)
{
    if (count != sizeof...(A))
        return 2;
    Call<A...> call = {kernel, arguments};
    body = Call<A...>::run;
    body_arguments = &call;
    gridDim.x = blocks;
    for (int block = 0; block < blocks; block++) {
        blockIdx.x = backwards ? blocks - 1 - block : block;
        shared.assign(shared_bytes, 0xff);
        run_block(backwards);
    }
    return 0;
}

}  // namespace stand_in

inline void __syncthreads()
{
    if (THREADS > 1)
        swapcontext(&stand_in::threads[threadIdx.x].context, &stand_in::scheduler);
}
