// Kernels of the experiments beside the benchmark's: one that begins before its predecessor has ended, and a pair of
// which one spins for the other. The first parameter of the first is what the software GPU takes for the launch.

typedef unsigned int u32;
typedef unsigned long long u64;

// The work of the benchmark's `burn`; its successor may begin at once, and it waits for its predecessor before it writes.
extern "C" __global__ void dependent(u64 sim_ns, u64 steps, float *out, u32 *count) {
    asm volatile("griddepcontrol.launch_dependents;");
    float x = threadIdx.x * 1e-3f;
    for (u64 step = 0; step < steps; step += 32) {
#pragma unroll
        for (int i = 0; i < 32; i++) x = fmaf(x, 0.999f, 0.001f);
    }
    asm volatile("griddepcontrol.wait;" ::: "memory");
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        out[0] = x;
        atomicAdd(count, 1u);
    }
    if (x == 12345.0f) out[1] = x;
}

// Spins until the word is set.
// cuota-sim: spin wait_flag_arg=0
extern "C" __global__ void spin(volatile u32 *flag) {
    while (*flag == 0) __nanosleep(200);
}

// Sets it.
// cuota-sim: set set_flag_arg=0
extern "C" __global__ void set(volatile u32 *flag) {
    __threadfence();
    *flag = 1;
}
