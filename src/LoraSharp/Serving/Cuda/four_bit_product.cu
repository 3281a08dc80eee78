// y = x . W^T for few rows of x and W in 4 bits (FourBitProduct.cs): every weight is what dequantize_bf16 (four_bit.cu) gives, made once
// in registers and used for all rows of x; tensor cores, sums in float32.
//
// A block makes R = 32 * RG outputs of N = 8 * TILES rows of x over its part of k: eight warps, RG along the outputs (32 each) and
// 8 / RG along k. Weights are the A of mma.m16n8k16. In what order k is summed does not matter as long as both factors agree,
// so a thread takes 32 codes that lie side by side (16 bytes), of which the k-steps of a fragment take four after
// four, and x is staged in shared memory in just that order: nothing is exchanged between threads.
// Parts of k are added up by the last block that ends, always in the same order.
#include "bf16_math.cu"

typedef unsigned char u8;

__device__ __forceinline__ void copy16(void* to, const void* from, bool there) {
    // Zeros where nothing is there.
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" :: "r"((u32)__cvta_generic_to_shared(to)), "l"(from), "r"(there ? 16 : 0) : "memory");
}
__device__ __forceinline__ void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
__device__ __forceinline__ void copies_wait() { asm volatile("cp.async.wait_group 0;" ::: "memory"); }

// Weights are read once: they need no place in L1.
__device__ __forceinline__ uint4 load_once(const void* address) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(address));
    return v;
}

__device__ __forceinline__ void mma(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The value of the code in the lowest four bits: lane j of 16 holds the codebook's value j, and a shuffle of width 16 looks at no
// other bits of the index.
__device__ __forceinline__ float look_up(float book, u32 code) { return __shfl_sync(0xffffffffu, book, (int)code, 16); }

// Four weights, of which the lowest 16 bits are the codes: the high half of a byte comes first.
__device__ __forceinline__ void four(u32 codes, float book, float scale, u32& first, u32& second) {
    float a = look_up(book, codes >> 4), b = look_up(book, codes), c = look_up(book, codes >> 12), d = look_up(book, codes >> 8);
    first = pack(__fmul_rn(a, scale), __fmul_rn(b, scale));
    second = pack(__fmul_rn(c, scale), __fmul_rn(d, scale));
}

__device__ __forceinline__ u32 word(const uint4& v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }

// One linear: rows [rows, k / 2] of codes, a scale a block of the flattened matrix: float32, or 8-bit codes where 'nested' is there.
struct Linear {
    const u8* codes;
    const void* scales;
    const float* nested;
    float offset;
    int rows;
};

// Up to three linears that read the same x, their outputs side by side in y [n, ld_y]. k is a multiple of 32, rows of 8, and
// rows * k is below 2^31. Grid: tiles of outputs (none is of two linears), parts of k, pieces of N rows of x.
// 'ld_scales' is odd and at least the number of blocks that a row has in a part of k.
template <int TILES, int RG>
__device__ __forceinline__ void multiply(const u16* x, u16* y, int n, int k, int ld_y, int block_shift, int ld_scales, const float* book_values, const float* map, Linear linear, Linear second, Linear third,
    float* partial, int* arrived) {
    constexpr int KG = 8 / RG, R = 32 * RG, N = 8 * TILES, STEP = 128 * KG, PIECE = TILES * 4 * 32;
    constexpr int THREADS = 256, NESTED_SHIFT = 8, BATCH = 16;
    extern __shared__ __align__(16) u8 memory[];
    __shared__ float map_values[256];
    __shared__ int last;
    uint4* staged = (uint4*)memory;                                  // x: [2][KG][TILES][4][32]
    float* scales = (float*)(memory + 2 * KG * PIECE * 16);          // [R][ld_scales]
    float* sums = (float*)memory;                                    // afterwards: [N][R + 4]
    constexpr int LD = R + 4;
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3, kg = warp / RG;

    // Which linear, and which rows of it.
    int tile = blockIdx.x, column = 0, tiles = (linear.rows + R - 1) / R;
    if (tile >= tiles) {
        tile -= tiles;
        column = linear.rows;
        linear = second;
        tiles = (linear.rows + R - 1) / R;
        if (tile >= tiles) {
            tile -= tiles;
            column += linear.rows;
            linear = third;
        }
    }
    int row0 = tile * R, first_row = blockIdx.z * N;
    int steps = (k + STEP - 1) / STEP, begin = steps * (int)blockIdx.y / (int)gridDim.y, end = steps * ((int)blockIdx.y + 1) / (int)gridDim.y, first_k = begin * STEP;

    // A thread's four rows of weights: element of each where its codes start, and the place of its scale in the table.
    int start[4], place[4];
    #pragma unroll
    for (int r = 0; r < 4; r++) {
        int local = (warp % RG) * 32 + g + 8 * r, row = min(row0 + local, linear.rows - 1);
        start[r] = row * k;
        place[r] = local * ld_scales - ((row * k + first_k) >> block_shift);
    }
    auto codes_of = [&](int step, uint4 (&codes)[4]) {
        int at = step * STEP + kg * 128 + t * 32;
        #pragma unroll
        for (int r = 0; r < 4; r++) codes[r] = at < k ? load_once(linear.codes + ((start[r] + at) >> 1)) : make_uint4(0, 0, 0, 0);
    };
    // Lane 4g + t of a fragment reads x's row g: the 8 numbers from 32t + 8q on, q = 0..3. Writers have q and t side by side, readers g and t:
    // the exclusive or keeps both free of conflicts.
    auto stage = [&](int step, int buffer) {
        #pragma unroll
        for (int j = 0; j < (KG * PIECE + THREADS - 1) / THREADS; j++) {
            int i = threadIdx.x + j * THREADS;
            if (KG * PIECE < THREADS && i >= KG * PIECE) break;
            int q = i & 3, of = (i >> 2) & 3, row = (i >> 4) % N, piece = i / PIECE;
            int from = step * STEP + piece * 128 + of * 32 + q * 8, source = first_row + row;
            uint4* to = staged + (buffer * KG + piece) * PIECE + ((row >> 3) * 4 + q) * 32 + ((((row & 7) << 2) + of) ^ (q << 1));
            // Rows that are not there are not read: if all blocks read one row eight times they would wait for a few lines of L2.
            bool there = from < k && source < n;
            copy16(to, x + (there ? (long long)source * k + from : 0), there);
        }
        copies_commit();
    };

    float book = book_values[lane & 15];
    float of_map = linear.nested ? map[threadIdx.x] : 0.f;
    uint4 now[4], next[4] = {};
    stage(begin, 0);
    codes_of(begin, now);

    // All scales of the block's weights, once. Many loads before the first is waited for.
    int blocks = (linear.rows * k + (1 << block_shift) - 1) >> block_shift, count = R * ld_scales;
    for (int base = 0; base < count; base += THREADS * BATCH) {
        float value[BATCH];
        u8 code[BATCH];
        int from = base + threadIdx.x, row = from / ld_scales, slot = from % ld_scales;
        #pragma unroll
        for (int b = 0; b < BATCH; b++) {
            int block = min(((min(row0 + row, linear.rows - 1) * k + first_k) >> block_shift) + slot, blocks - 1);
            code[b] = linear.nested ? ((const u8*)linear.scales)[block] : 0;
            value[b] = linear.nested ? linear.nested[block >> NESTED_SHIFT] : ((const float*)linear.scales)[block];
            row += THREADS / ld_scales;
            slot += THREADS % ld_scales;
            if (slot >= ld_scales) { slot -= ld_scales; row++; }
        }
        if (base == 0) {
            map_values[threadIdx.x] = of_map;
            __syncthreads();
        }
        #pragma unroll
        for (int b = 0; b < BATCH; b++) {
            // Product and sum rounded one after the other, as four_bit.cu has it.
            if (from + b * THREADS < count) scales[from + b * THREADS] = linear.nested ? __fadd_rn(__fmul_rn(map_values[code[b]], value[b]), linear.offset) : value[b];
        }
    }

    float acc[2][TILES][4];
    #pragma unroll
    for (int m = 0; m < 2; m++)
        #pragma unroll
        for (int i = 0; i < TILES; i++)
            #pragma unroll
            for (int c = 0; c < 4; c++) acc[m][i][c] = 0.f;
    for (int step = begin; step < end; step++) {
        int buffer = (step - begin) & 1, at = step * STEP + kg * 128 + t * 32;
        copies_wait();
        // This step's x is there, and nobody reads the other buffer any more.
        __syncthreads();
        if (step + 1 < end) {
            stage(step + 1, buffer ^ 1);
            codes_of(step + 1, next);
        }
        float scale[4];
        #pragma unroll
        for (int r = 0; r < 4; r++) scale[r] = at < k ? scales[place[r] + ((start[r] + at) >> block_shift)] : 0.f;
        const uint4* from = staged + (buffer * KG + kg) * PIECE;
        #pragma unroll
        for (int q = 0; q < 4; q++) {
            uint4 b[TILES];
            #pragma unroll
            for (int i = 0; i < TILES; i++) b[i] = from[(i * 4 + q) * 32 + (lane ^ (q << 1))];
            #pragma unroll
            for (int m = 0; m < 2; m++) {
                u32 upper = word(now[2 * m], q), lower = word(now[2 * m + 1], q);
                #pragma unroll
                for (int half = 0; half < 2; half++) {
                    u32 a[4];
                    four(upper >> (16 * half), book, scale[2 * m], a[0], a[2]);
                    four(lower >> (16 * half), book, scale[2 * m + 1], a[1], a[3]);
                    #pragma unroll
                    for (int i = 0; i < TILES; i++) mma(acc[m][i], a, half ? b[i].z : b[i].x, half ? b[i].w : b[i].y);
                }
            }
        }
        #pragma unroll
        for (int r = 0; r < 4; r++) now[r] = next[r];
    }

    // The warps along k add up in shared memory, one after the other.
    #pragma unroll
    for (int turn = 0; turn < KG; turn++) {
        __syncthreads();
        if (kg != turn) continue;
        #pragma unroll
        for (int m = 0; m < 2; m++)
            #pragma unroll
            for (int i = 0; i < TILES; i++)
                #pragma unroll
                for (int c = 0; c < 4; c++) {
                    float* to = sums + (i * 8 + 2 * t + (c & 1)) * LD + (warp % RG) * 32 + 16 * m + g + 8 * (c >> 1);
                    *to = turn ? *to + acc[m][i][c] : acc[m][i][c];
                }
    }
    __syncthreads();

    // Eight outputs a thread at a time.
    int place_of_tile = blockIdx.z * gridDim.x + blockIdx.x, parts = gridDim.y, rows_here = min(N, n - first_row), outputs = min(R, linear.rows - row0);
    float* mine = partial + ((long long)place_of_tile * parts + blockIdx.y) * (N * R);
    if (parts > 1) {
        for (int i = threadIdx.x; i < rows_here * (R / 4); i += THREADS) {
            int row = i / (R / 4), o = i % (R / 4) * 4;
            *(float4*)(mine + row * R + o) = *(const float4*)(sums + row * LD + o);
        }
        __threadfence();
        __syncthreads();
        if (threadIdx.x == 0) last = atomicAdd(arrived + place_of_tile, 1) == parts - 1;
        __syncthreads();
        if (!last) return;
        __threadfence();
        if (threadIdx.x == 0) arrived[place_of_tile] = 0;
    }
    for (int i = threadIdx.x; i < rows_here * (R / 8); i += THREADS) {
        int row = i / (R / 8), o = i % (R / 8) * 8;
        if (o >= outputs) continue;
        float f[8];
        if (parts == 1) {
            #pragma unroll
            for (int j = 0; j < 8; j++) f[j] = sums[row * LD + o + j];
        } else {
            #pragma unroll
            for (int j = 0; j < 8; j++) f[j] = 0.f;
            const float* from = partial + (long long)place_of_tile * parts * (N * R) + row * R + o;
            #pragma unroll 4
            for (int p = 0; p < parts; p++) {
                float4 u = __ldcg((const float4*)(from + (long long)p * (N * R))), v = __ldcg((const float4*)(from + (long long)p * (N * R) + 4));
                f[0] += u.x; f[1] += u.y; f[2] += u.z; f[3] += u.w; f[4] += v.x; f[5] += v.y; f[6] += v.z; f[7] += v.w;
            }
        }
        *(uint4*)(y + (long long)(first_row + row) * ld_y + column + row0 + o) = repack(f);
    }
}

// multiply_TILES_RG.
#define MULTIPLY(TILES, RG, BLOCKS) \
    extern "C" __global__ void __launch_bounds__(256, BLOCKS) multiply_##TILES##_##RG(const u16* x, u16* y, int n, int k, int ld_y, int block_shift, int ld_scales, const float* book, const float* map, \
        const u8* codes0, const void* scales0, const float* nested0, float offset0, int rows0, const u8* codes1, const void* scales1, const float* nested1, float offset1, int rows1, \
        const u8* codes2, const void* scales2, const float* nested2, float offset2, int rows2, float* partial, int* arrived) { \
        multiply<TILES, RG>(x, y, n, k, ld_y, block_shift, ld_scales, book, map, { codes0, scales0, nested0, offset0, rows0 }, { codes1, scales1, nested1, offset1, rows1 }, \
            { codes2, scales2, nested2, offset2, rows2 }, partial, arrived); \
    }

MULTIPLY(1, 4, 2)
MULTIPLY(1, 8, 2)
MULTIPLY(2, 4, 2)
MULTIPLY(2, 8, 2)
MULTIPLY(4, 4, 2)
MULTIPLY(4, 8, 2)
MULTIPLY(8, 4, 1)
MULTIPLY(8, 8, 1)
