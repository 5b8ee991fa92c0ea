// What a decoder and a training step need beside products of matrices. All sums are FP32, all stored numbers bf16
// unless said otherwise.
#include "mma.h"

// The sum over a block of 256 threads, in every thread.
__device__ __forceinline__ float block_sum(float x) {
    __shared__ float parts[8];
    for (int offset = 16; offset; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
    __syncthreads(); // The parts of an earlier sum have been read.
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
    __syncthreads();
    float sum = 0.0f;
    for (int i = 0; i < 8; i++) sum += parts[i];
    return sum;
}

// y = x / sqrt(mean(x^2)): a row a block of 256 threads.
extern "C" __global__ void rms_norm(u64 sim_ns, const bf16 *x, bf16 *y, int width) {
    const bf16 *row = x + (u64)blockIdx.x * width;
    float squares = 0.0f;
    for (int i = threadIdx.x; i < width; i += 256) squares += to_float(row[i]) * to_float(row[i]);
    float inverse = rsqrtf(block_sum(squares) / width + 1e-6f);
    for (int i = threadIdx.x; i < width; i += 256) y[(u64)blockIdx.x * width + i] = to_bf16(to_float(row[i]) * inverse);
}

// Appends the new key and value of each sequence to its cache. `qkv` is batch x 3 x heads x 64; a cache is batch x heads
// x capacity x 64. Grid (heads, batch), 64 threads.
extern "C" __global__ void append_kv(u64 sim_ns, const bf16 *qkv, bf16 *keys, bf16 *values, const int *lengths, int heads,
                                     int capacity) {
    int head = blockIdx.x, sequence = blockIdx.y, i = threadIdx.x;
    int at = lengths[sequence] % capacity;
    const bf16 *row = qkv + (u64)sequence * 3 * heads * 64;
    u64 to = (((u64)sequence * heads + head) * capacity + at) * 64 + i;
    keys[to] = row[(heads + head) * 64 + i];
    values[to] = row[(2 * heads + head) * 64 + i];
}

// One query a sequence against its cache, the new key included; at most 2,048 keys. Grid (heads, batch), 128 threads.
extern "C" __global__ void decode_attention(u64 sim_ns, const bf16 *qkv, const bf16 *keys, const bf16 *values, bf16 *out,
                                            const int *lengths, int heads, int capacity) {
    __shared__ float score[2048];
    __shared__ float query[64];
    __shared__ float parts[4];
    __shared__ float halves[128];
    int head = blockIdx.x, sequence = blockIdx.y, thread = threadIdx.x;
    int count = min(lengths[sequence] + 1, capacity);
    u64 cache = ((u64)sequence * heads + head) * capacity * 64;
    if (thread < 64) query[thread] = to_float(qkv[(u64)sequence * 3 * heads * 64 + head * 64 + thread]);
    __syncthreads();
    float high = -1e30f;
    for (int key = thread; key < count; key += 128) {
        const uint4 *row = (const uint4 *)(keys + cache + (u64)key * 64);
        float dot = 0.0f;
        for (int chunk = 0; chunk < 8; chunk++) {
            uint4 eight = row[chunk];
            u32 words[4] = {eight.x, eight.y, eight.z, eight.w};
            for (int w = 0; w < 4; w++) {
                dot += query[chunk * 8 + w * 2] * to_float((bf16)words[w]);
                dot += query[chunk * 8 + w * 2 + 1] * to_float((bf16)(words[w] >> 16));
            }
        }
        score[key] = dot * 0.125f; // 1 / sqrt(64)
        high = fmaxf(high, score[key]);
    }
    for (int offset = 16; offset; offset /= 2) high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, offset));
    if (thread % 32 == 0) parts[thread / 32] = high;
    __syncthreads();
    high = fmaxf(fmaxf(parts[0], parts[1]), fmaxf(parts[2], parts[3]));
    float total = 0.0f;
    for (int key = thread; key < count; key += 128) {
        score[key] = expf(score[key] - high);
        total += score[key];
    }
    for (int offset = 16; offset; offset /= 2) total += __shfl_xor_sync(0xffffffffu, total, offset);
    __syncthreads();
    if (thread % 32 == 0) parts[thread / 32] = total;
    __syncthreads();
    total = parts[0] + parts[1] + parts[2] + parts[3];
    float sum = 0.0f;
    for (int key = thread / 64; key < count; key += 2)
        sum += score[key] * to_float(values[cache + (u64)key * 64 + thread % 64]);
    halves[thread] = sum;
    __syncthreads();
    if (thread < 64)
        out[(u64)sequence * heads * 64 + head * 64 + thread] = to_bf16((halves[thread] + halves[thread + 64]) / total);
}

// Each sequence has one more token; at `capacity` it begins anew at `restart`. One block.
extern "C" __global__ void advance(u64 sim_ns, int *lengths, int sequences, int capacity, int restart) {
    for (int i = threadIdx.x; i < sequences; i += blockDim.x) {
        int next = lengths[i] + 1;
        lengths[i] = next < capacity ? next : restart;
    }
}

// to (columns x rows) = from (rows x columns), transposed. Both multiples of 32; grid (columns / 32, rows / 32), 32 x 8.
extern "C" __global__ void transpose(u64 sim_ns, const bf16 *from, bf16 *to, int rows, int columns) {
    __shared__ bf16 tile[32][33];
    int column = blockIdx.x * 32 + threadIdx.x, row = blockIdx.y * 32 + threadIdx.y;
    for (int i = 0; i < 32; i += 8) tile[threadIdx.y + i][threadIdx.x] = from[(u64)(row + i) * columns + column];
    __syncthreads();
    int to_column = blockIdx.y * 32 + threadIdx.x, to_row = blockIdx.x * 32 + threadIdx.y;
    for (int i = 0; i < 32; i += 8) to[(u64)(to_row + i) * rows + to_column] = tile[threadIdx.x][threadIdx.y + i];
}

// The squared error of `y` against `target`, added to `loss` as its mean, and its gradient times `count`: 2 (y - target).
extern "C" __global__ void squared_error(u64 sim_ns, const bf16 *y, const bf16 *target, bf16 *gradient, float *loss,
                                         u64 count) {
    float squares = 0.0f;
    u64 stride = (u64)gridDim.x * 256;
    for (u64 i = (u64)blockIdx.x * 256 + threadIdx.x; i < count; i += stride) {
        float error = to_float(y[i]) - to_float(target[i]);
        squares += error * error;
        gradient[i] = to_bf16(2.0f * error);
    }
    float sum = block_sum(squares);
    if (threadIdx.x == 0) atomicAdd(loss, sum / count);
}

// Where the activation was cut off, nothing flows back.
extern "C" __global__ void relu_backward(u64 sim_ns, const bf16 *activated, bf16 *gradient, u64 count) {
    u64 stride = (u64)gridDim.x * blockDim.x;
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += stride)
        if (activated[i] == 0) gradient[i] = 0;
}

// weight -= rate * gradient, on the FP32 master copy; the bf16 copy follows.
extern "C" __global__ void descend(u64 sim_ns, float *master, bf16 *weight, const bf16 *gradient, float rate, u64 count) {
    u64 stride = (u64)gridDim.x * blockDim.x;
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += stride) {
        master[i] -= rate * to_float(gradient[i]);
        weight[i] = to_bf16(master[i]);
    }
}

// The FP32 master copy of weights that were made in bf16.
extern "C" __global__ void widen(u64 sim_ns, const bf16 *from, float *to, u64 count) {
    u64 stride = (u64)gridDim.x * blockDim.x;
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += stride) to[i] = to_float(from[i]);
}
