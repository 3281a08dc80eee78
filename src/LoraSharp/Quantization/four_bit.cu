// 4-bit matrices on a GPU (FourBitKernels.cs): codes two a byte, high nibble first, a scale a block of the flattened
// matrix; the scales plain float32 or, doubly quantised, 8-bit codes of a table with scales of their own.
#include "bf16_math.cu"

struct Scales {
    const float* plain;
    const unsigned char* codes;
    const float* map;
    const float* nested;
    float offset;
    int nested_block;

    // Product and sum are rounded one after the other, as on a CPU: no fused multiply-add.
    __device__ __forceinline__ float at(long long block) const {
        return plain ? plain[block] : __fadd_rn(__fmul_rn(map[codes[block]], nested[block / nested_block]), offset);
    }
};

__device__ __forceinline__ void values(const unsigned char* codes, long long e, const float* book, float scale, float* f) {
    u32 c = *(const u32*)(codes + (e >> 1));
    #pragma unroll
    for (int j = 0; j < 4; j++) {
        u32 b = (c >> (8 * j)) & 255u;
        f[2 * j] = __fmul_rn(book[b >> 4], scale);
        f[2 * j + 1] = __fmul_rn(book[b & 15u], scale);
    }
}

// Rows of 'columns' weights (a multiple of 8; blocks are too) into rows of stride ld.
extern "C" __global__ void dequantize_bf16(const unsigned char* codes, const float* plain, const unsigned char* absmax, const float* map, const float* nested, float offset, int nested_block,
    const float* codebook, u16* out, int columns, long long ld, int block_size) {
    __shared__ float book[16];
    if (threadIdx.x < 16) book[threadIdx.x] = codebook[threadIdx.x];
    __syncthreads();
    long long i = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * 8, row = blockIdx.y, e = row * columns + i;
    if (i >= columns) return;
    Scales scales = { plain, absmax, map, nested, offset, nested_block };
    float f[8];
    values(codes, e, book, scales.at(e / block_size), f);
    *(uint4*)(out + row * ld + i) = make_uint4(pack(f[0], f[1]), pack(f[2], f[3]), pack(f[4], f[5]), pack(f[6], f[7]));
}

extern "C" __global__ void dequantize_f32(const unsigned char* codes, const float* plain, const unsigned char* absmax, const float* map, const float* nested, float offset, int nested_block,
    const float* codebook, float* out, int columns, long long ld, int block_size) {
    __shared__ float book[16];
    if (threadIdx.x < 16) book[threadIdx.x] = codebook[threadIdx.x];
    __syncthreads();
    long long i = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * 8, row = blockIdx.y, e = row * columns + i;
    if (i >= columns) return;
    Scales scales = { plain, absmax, map, nested, offset, nested_block };
    float f[8];
    values(codes, e, book, scales.at(e / block_size), f);
    float4* o = (float4*)(out + row * ld + i);
    o[0] = make_float4(f[0], f[1], f[2], f[3]);
    o[1] = make_float4(f[4], f[5], f[6], f[7]);
}
