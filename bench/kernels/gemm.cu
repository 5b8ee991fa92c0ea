// C = f(A B^T) + R in bf16 with sums in FP32, on tensor cores. A is M x K, B is N x K, both by rows; C and R are M x N.
// N must be a multiple of the tile's width, K of 32; M is free.
#include "mma.h"

constexpr int BK = 32;     // Depth of a tile.
constexpr int STAGES = 3;  // Tiles in flight.

// 64-byte rows: the 16-byte chunk is moved by the row, so that eight rows of a chunk lie in eight bank groups.
__device__ __forceinline__ u32 chunk_offset(int row, int chunk) {
    return (u32)(row * 64 + ((chunk ^ ((row >> 1) & 3)) << 4));
}

// Copies rows [first, first + ROWS) x [k, k + 32); rows past `rows` repeat the last one and are never stored.
template <int ROWS, int THREADS>
__device__ __forceinline__ void load_tile(u32 to, const bf16 *from, int first, int rows, int k, int depth) {
#pragma unroll
    for (int i = threadIdx.x; i < ROWS * 4; i += THREADS) {
        int row = i >> 2, chunk = i & 3;
        int source = min(first + row, rows - 1);
        copy_async(to + chunk_offset(row, chunk), from + (u64)source * depth + k + chunk * 8);
    }
}

__device__ __forceinline__ float activated(float x, int activation) {
    if (activation == 1) return fmaxf(x, 0.0f);
    if (activation == 2) return 0.5f * x * (1.0f + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
    return x;
}

// WM x WN warps, each with 16 * TM x 8 * TN of the tile.
template <int WM, int WN, int TM, int TN>
__device__ __forceinline__ void gemm(const bf16 *a, const bf16 *b, const bf16 *residual, bf16 *c, int m, int n, int k,
                                     int activation) {
    constexpr int THREADS = WM * WN * 32, BM = WM * TM * 16, BN = WN * TN * 8;
    __shared__ __align__(128) unsigned char tiles[STAGES * (BM + BN) * 64];
    const u32 base = shared_address(tiles);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int row0 = blockIdx.x * BM, column0 = blockIdx.y * BN;
    const int warp_row = (warp / WN) * TM * 16, warp_column = (warp % WN) * TN * 8;
    const int tiles_in_depth = k / BK;
    float sum[TM][TN][4] = {};

    auto load = [&](int tile) {
        u32 to = base + (tile % STAGES) * (BM + BN) * 64;
        load_tile<BM, THREADS>(to, a, row0, m, tile * BK, k);
        load_tile<BN, THREADS>(to + BM * 64, b, column0, n, tile * BK, k);
    };
    for (int tile = 0; tile < STAGES - 1; tile++) {
        if (tile < tiles_in_depth) load(tile);
        commit_copies();
    }
    for (int tile = 0; tile < tiles_in_depth; tile++) {
        wait_copies<STAGES - 2>();
        __syncthreads(); // The tile is here, and nobody still reads the one that is overwritten next.
        if (tile + STAGES - 1 < tiles_in_depth) load(tile + STAGES - 1);
        commit_copies();
        const u32 tile_a = base + (tile % STAGES) * (BM + BN) * 64, tile_b = tile_a + BM * 64;
#pragma unroll
        for (int step = 0; step < BK / 16; step++) {
            u32 fa[TM][4], fb[TN / 2][4];
#pragma unroll
            for (int i = 0; i < TM; i++) {
                int row = warp_row + i * 16 + (lane / 8 % 2) * 8 + lane % 8;
                load4(fa[i], tile_a + chunk_offset(row, step * 2 + lane / 16));
            }
#pragma unroll
            for (int j = 0; j < TN / 2; j++) {
                int row = warp_column + j * 16 + (lane / 16) * 8 + lane % 8;
                load4(fb[j], tile_b + chunk_offset(row, step * 2 + lane / 8 % 2));
            }
#pragma unroll
            for (int i = 0; i < TM; i++)
#pragma unroll
                for (int j = 0; j < TN; j++) mma(sum[i][j], fa[i], fb[j / 2][j % 2 * 2], fb[j / 2][j % 2 * 2 + 1]);
        }
    }
#pragma unroll
    for (int i = 0; i < TM; i++)
#pragma unroll
        for (int j = 0; j < TN; j++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                int row = row0 + warp_row + i * 16 + half * 8 + lane / 4;
                int column = column0 + warp_column + j * 8 + lane % 4 * 2;
                if (row >= m) continue;
                float x = activated(sum[i][j][half * 2], activation);
                float y = activated(sum[i][j][half * 2 + 1], activation);
                u64 at = (u64)row * n + column;
                if (residual) {
                    u32 r = *(const u32 *)(residual + at);
                    x += to_float((bf16)r);
                    y += to_float((bf16)(r >> 16));
                }
                *(u32 *)(c + at) = pack(x, y);
            }
}

// Large: tiles of 128 x 128, 256 threads.
extern "C" __global__ void __launch_bounds__(256)
    gemm_128x128(u64 sim_ns, const bf16 *a, const bf16 *b, const bf16 *residual, bf16 *c, int m, int n, int k,
                 int activation) {
    gemm<2, 4, 4, 4>(a, b, residual, c, m, n, k, activation);
}

// Few rows, as in decoding: tiles of 64 x 32, 128 threads, so that even narrow weights are read by many multiprocessors.
extern "C" __global__ void __launch_bounds__(128)
    gemm_64x32(u64 sim_ns, const bf16 *a, const bf16 *b, const bf16 *residual, bf16 *c, int m, int n, int k,
               int activation) {
    gemm<4, 1, 1, 4>(a, b, residual, c, m, n, k, activation);
}
