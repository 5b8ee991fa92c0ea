// Fused attention, forward, on tensor cores: O = softmax(Q K^T / sqrt(128)) V for heads of 128 numbers in bf16, the
// softmax kept online in FP32 (Milakov and Gimelshein 2018; Dao 2023). Q, K, V and O are heads x length x 128; the
// length is a multiple of 128. The grid is (length / 128, heads), 256 threads: a warp has 16 queries.
#include "mma.h"

constexpr int DEPTH = 128;    // Numbers in a head.
constexpr int QUERIES = 128;  // Queries of a block.
constexpr int KEYS = 64;      // Keys of a tile.

// 256-byte rows of 16 chunks.
__device__ __forceinline__ u32 chunk_offset(int row, int chunk) {
    return (u32)(row * 256 + ((chunk ^ (row & 7)) << 4));
}

__device__ __forceinline__ void load_rows(u32 to, const bf16 *from) {
#pragma unroll
    for (int i = threadIdx.x; i < KEYS * 16; i += 256) {
        int row = i / 16, chunk = i % 16;
        copy_async(to + chunk_offset(row, chunk), from + row * DEPTH + chunk * 8);
    }
    commit_copies();
}

// The largest, and the sum, over the four lanes that share a row.
__device__ __forceinline__ float row_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
__device__ __forceinline__ float row_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

extern "C" __global__ void __launch_bounds__(256)
    attention_128(u64 sim_ns, const bf16 *q, const bf16 *k, const bf16 *v, bf16 *o, int length) {
    __shared__ __align__(128) unsigned char tiles[2 * KEYS * 256];
    const u32 tile_k = shared_address(tiles), tile_v = tile_k + KEYS * 256;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const u64 head = (u64)blockIdx.y * length * DEPTH;
    const int row0 = blockIdx.x * QUERIES + warp * 16 + lane / 4;
    k += head;
    v += head;

    load_rows(tile_k, k);
    load_rows(tile_v, v);
    // The queries stay in registers, as the left operand of mma.
    u32 fq[DEPTH / 16][4];
#pragma unroll
    for (int step = 0; step < DEPTH / 16; step++)
#pragma unroll
        for (int part = 0; part < 4; part++) {
            u64 row = row0 + part % 2 * 8;
            int column = step * 16 + part / 2 * 8 + lane % 4 * 2;
            fq[step][part] = *(const u32 *)(q + head + row * DEPTH + column);
        }
    const float scale = 0.08838834764f * 1.44269504f; // 1 / sqrt(128), in powers of two.
    float sum[DEPTH / 8][4] = {};
    float largest[2] = {-1e30f, -1e30f}, total[2] = {0.0f, 0.0f};

    const int key_tiles = length / KEYS;
    for (int tile = 0; tile < key_tiles; tile++) {
        wait_copies<1>(); // The keys; the values may still be on their way.
        __syncthreads();
        float s[KEYS / 8][4] = {};
#pragma unroll
        for (int step = 0; step < DEPTH / 16; step++)
#pragma unroll
            for (int j = 0; j < KEYS / 16; j++) {
                u32 fk[4];
                int row = j * 16 + (lane / 16) * 8 + lane % 8;
                load4(fk, tile_k + chunk_offset(row, step * 2 + lane / 8 % 2));
                mma(s[j * 2], fq[step], fk[0], fk[1]);
                mma(s[j * 2 + 1], fq[step], fk[2], fk[3]);
            }
        __syncthreads(); // All have read the keys.
        if (tile + 1 < key_tiles) load_rows(tile_k, k + (u64)(tile + 1) * KEYS * DEPTH);
        else commit_copies(); // An empty group, so that the count of groups stays the same.
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float high = largest[half];
#pragma unroll
            for (int j = 0; j < KEYS / 8; j++) high = fmaxf(high, fmaxf(s[j][half * 2], s[j][half * 2 + 1]));
            high = row_max(high);
            float shrink = exp2f((largest[half] - high) * scale);
            largest[half] = high;
            float part = 0.0f;
#pragma unroll
            for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    float p = exp2f((s[j][half * 2 + i] - high) * scale);
                    s[j][half * 2 + i] = p;
                    part += p;
                }
            total[half] = total[half] * shrink + part;
#pragma unroll
            for (int j = 0; j < DEPTH / 8; j++) {
                sum[j][half * 2] *= shrink;
                sum[j][half * 2 + 1] *= shrink;
            }
        }
        wait_copies<1>(); // The values; the next keys may be on their way.
        __syncthreads();
#pragma unroll
        for (int step = 0; step < KEYS / 16; step++) {
            u32 fp[4] = {pack(s[step * 2][0], s[step * 2][1]), pack(s[step * 2][2], s[step * 2][3]),
                         pack(s[step * 2 + 1][0], s[step * 2 + 1][1]), pack(s[step * 2 + 1][2], s[step * 2 + 1][3])};
#pragma unroll
            for (int j = 0; j < DEPTH / 16; j++) {
                u32 fv[4];
                int row = step * 16 + (lane / 8 % 2) * 8 + lane % 8;
                load4_transposed(fv, tile_v + chunk_offset(row, j * 2 + lane / 16));
                mma(sum[j * 2], fp, fv[0], fv[1]);
                mma(sum[j * 2 + 1], fp, fv[2], fv[3]);
            }
        }
        __syncthreads(); // All have read the values.
        if (tile + 1 < key_tiles) load_rows(tile_v, v + (u64)(tile + 1) * KEYS * DEPTH);
        else commit_copies();
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float inverse = 1.0f / row_sum(total[half]);
        u64 row = row0 + half * 8;
#pragma unroll
        for (int j = 0; j < DEPTH / 8; j++)
            *(u32 *)(o + head + row * DEPTH + j * 8 + lane % 4 * 2) =
                pack(sum[j][half * 2] * inverse, sum[j][half * 2 + 1] * inverse);
    }
}
