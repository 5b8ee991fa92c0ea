// Kernels that need nothing but arithmetic and memory: work of known length, patterns, copies, faults.
//
// The first parameter of every kernel here is `sim_ns`: what the software GPU takes for the launch. A GPU ignores it.

typedef unsigned int u32;
typedef unsigned long long u64;

// Nothing: what is left is the launch.
extern "C" __global__ void empty(u64 sim_ns) {}

// Work of fixed length, not of fixed time: a tenant that is preempted does not get on. `steps` dependent multiply-adds in
// each thread, a multiple of 32. Thread 0 of block 0 leaves its result in out[0] and counts the launch in `count`.
extern "C" __global__ void burn(u64 sim_ns, u64 steps, float *out, u32 *count) {
    float x = threadIdx.x * 1e-3f;
    for (u64 step = 0; step < steps; step += 32) {
#pragma unroll
        for (int i = 0; i < 32; i++) x = fmaf(x, 0.999f, 0.001f);
    }
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        out[0] = x;
        atomicAdd(count, 1u);
    }
    if (x == 12345.0f) out[1] = x; // So that no thread's work can be left away.
}

// Copies 16-byte words: reads and writes each byte once.
extern "C" __global__ void copy16(u64 sim_ns, const uint4 *from, uint4 *to, u64 words) {
    u64 stride = (u64)gridDim.x * blockDim.x;
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < words; i += stride) to[i] = from[i];
}

// Writes one word in each page of `stride_bytes`: the first touch of memory.
extern "C" __global__ void touch_pages(u64 sim_ns, char *memory, u64 bytes, u64 stride_bytes) {
    u64 step = (u64)gridDim.x * blockDim.x * stride_bytes;
    u64 first = ((u64)blockIdx.x * blockDim.x + threadIdx.x) * stride_bytes;
    for (u64 at = first; at + 4 <= bytes; at += step) *(u32 *)(memory + at) = 1u;
}

// Writes the 64-bit `mark` all over: whoever finds it elsewhere has seen this memory.
extern "C" __global__ void mark_write(u64 sim_ns, u64 *memory, u64 words, u64 mark) {
    u64 stride = (u64)gridDim.x * blockDim.x;
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < words; i += stride) memory[i] = mark;
}

// Counts the words that are `mark` in found[0], and those that are not zero in found[1].
extern "C" __global__ void mark_scan(u64 sim_ns, const u64 *memory, u64 words, u64 mark, u64 *found) {
    u64 stride = (u64)gridDim.x * blockDim.x;
    u64 marks = 0, others = 0;
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < words; i += stride) {
        marks += memory[i] == mark;
        others += memory[i] != 0;
    }
    if (marks) atomicAdd(&found[0], marks);
    if (others) atomicAdd(&found[1], others);
}

// An access that no process may make.
// cuota-sim: illegal_address fault=1
extern "C" __global__ void illegal_address(u64 sim_ns, u64 address) { *(volatile u32 *)address = 1u; }

// A trap.
// cuota-sim: trap fault=1
extern "C" __global__ void trap(u64 sim_ns) { asm volatile("trap;"); }

// Numbers in bf16 from a hash of their place, evenly spread over (-scale, scale); a host computes the same.
extern "C" __global__ void fill_bf16(u64 sim_ns, unsigned short *to, u64 count, float scale, u32 seed) {
    u64 stride = (u64)gridDim.x * blockDim.x;
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += stride) {
        u64 x = (i + 1) * 0x9e3779b97f4a7c15ull + (u64)seed * 0xbf58476d1ce4e5b9ull;
        x ^= x >> 31;
        x *= 0x94d049bb133111ebull;
        x ^= x >> 29;
        float unit = (float)(int)((u32)(x >> 40)) * (1.0f / 8388608.0f) - 1.0f; // 24 bits: exact.
        u32 bits = __float_as_uint(unit * scale);
        bits += 0x7fffu + ((bits >> 16) & 1u); // To the nearest, ties to even.
        to[i] = (unsigned short)(bits >> 16);
    }
}
