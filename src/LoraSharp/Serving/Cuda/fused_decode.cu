// Kernels of serving on a GPU (FusedDecoder.cs): everything between the matrix products of a step, with each row's
// adapter read by pointer at its true rank. A row is one token of one sequence; rows of position -1 are not there.
#include "bf16_math.cu"

// The table of adapters: for each (layer, group, slot) 16 numbers: address of the stacked A's [R, k] bf16, R, then for each
// of up to three parts: address of B [f, r] bf16, r, first column of the part among R, scaling (float bits).
__device__ __forceinline__ const long long* entry(const long long* table, const int* slots, long long row) {
    int slot = slots[row];
    return slot < 0 ? 0 : table + (long long)slot * 16;
}
__device__ __forceinline__ float bits(long long v) { return __int_as_float((int)v); }

// The adapter's part of one linear for one row, read once a thread.
struct Part {
    const u16* b;
    const float* projected;
    int rank;
    float scale;

    __device__ __forceinline__ Part() : b(0), projected(0), rank(0), scale(0.f) {}
    __device__ __forceinline__ Part(const long long* entry, int part, const float* row) {
        longlong2 x = ((const longlong2*)(entry + 2 + part * 4))[0], y = ((const longlong2*)(entry + 2 + part * 4))[1];
        b = (const u16*)x.x;
        rank = (int)x.y;
        projected = row + y.x;
        scale = bits(y.y);
    }

    // s * sum over j of projected[j] * B[column][j].
    __device__ __forceinline__ float at(long long column) const {
        if (!rank) return 0.f;
        const u16* c = b + column * rank;
        float sum = 0.f;
        int j = 0;
        if ((rank & 7) == 0) {
            #pragma unroll 2
            for (; j < rank; j += 8) {
                float f[8];
                unpack(__ldg((const uint4*)(c + j)), f);
                #pragma unroll
                for (int i = 0; i < 8; i++) sum += f[i] * projected[j + i];
            }
        }
        for (; j < rank; j++) sum += one(c[j]) * projected[j];
        return sum * scale;
    }
};

extern "C" __global__ void embed(const u16* embedding, const int* tokens, u16* x, int d) {
    long long row = blockIdx.x;
    const uint4* source = (const uint4*)(embedding + (long long)tokens[row] * d);
    for (int i = threadIdx.x; i < d >> 3; i += blockDim.x) ((uint4*)(x + row * d))[i] = source[i];
}

// projected[row, j] = x[row] . A[j] for the row's adapter. 'split' warps share an output (1, 2, 4 or 8).
extern "C" __global__ void shrink(const u16* x, const long long* table, const int* slots, float* projected, int k, int ld_projected, int split) {
    __shared__ float part[8];
    long long row = blockIdx.x;
    const long long* t = entry(table, slots, row);
    if (!t) return;
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, per = 8 / split;
    int first = blockIdx.y * per, j = first + warp / split, rank = (int)t[1];
    if (first >= rank) return;
    float sum = 0.f;
    if (j < rank) {
        const u16* a = (const u16*)t[0] + (long long)j * k;
        const u16* xr = x + row * (long long)k;
        float f[8], g[8];
        for (int i = ((warp % split) * 32 + lane) * 8; i < k; i += split * 256) {
            unpack(*(const uint4*)(a + i), f);
            unpack(*(const uint4*)(xr + i), g);
            #pragma unroll
            for (int c = 0; c < 8; c++) sum += f[c] * g[c];
        }
    }
    #pragma unroll
    for (int o = 16; o; o >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, o);
    if (lane == 0) part[warp] = sum;
    __syncthreads();
    if (lane == 0 && warp % split == 0 && j < rank) {
        float total = 0.f;
        for (int i = 0; i < split; i++) total += part[warp + i];
        projected[row * ld_projected + j] = total;
    }
}

// extra[row] = s·B·projected[row] for the row's adapter, zeros where it does not adapt a part; parts end at columns end0, end1
// and width. A thread two columns. Rows without an adapter are not written: who adds 'extra' looks at slots.
extern "C" __global__ void expand(const long long* table, const int* slots, const float* projected, int ld_projected, u16* extra, int width, int end0, int end1) {
    long long row = blockIdx.y;
    int i = (blockIdx.x * blockDim.x + threadIdx.x) * 2;
    const long long* t = entry(table, slots, row);
    if (!t || i >= width) return;
    int which = i < end0 ? 0 : i < end1 ? 1 : 2, column = i - (which == 0 ? 0 : which == 1 ? end0 : end1);
    Part part(t, which, projected + row * ld_projected);
    *(u32*)(extra + row * width + i) = pack(part.at(column), part.at(column + 1));
}

// x_out = x + delta + the adapter's part of delta (delta and extra may be null), y = x_out * rstd * w.
extern "C" __global__ void add_rmsnorm(const u16* x, const u16* delta, const u16* extra, const int* slots, const u16* w, u16* x_out, u16* y, int d, float eps) {
    long long row = blockIdx.x;
    const u32* xr = (const u32*)(x + row * d);
    const u32* dr = delta ? (const u32*)(delta + row * d) : 0;
    const u32* er = extra && slots[row] >= 0 ? (const u32*)(extra + row * d) : 0;
    u32* xo = (u32*)(x_out + row * d);
    float sum = 0.f;
    for (int i = threadIdx.x; i < d >> 1; i += blockDim.x) {
        u32 v = xr[i];
        if (dr) {
            u32 d2 = dr[i], e2 = er ? er[i] : 0;
            v = pack(lo(v) + lo(d2) + lo(e2), hi(v) + hi(d2) + hi(e2));
        }
        xo[i] = v;
        sum += lo(v) * lo(v) + hi(v) * hi(v);
    }
    float scale = rsqrtf(block_sum(sum) / d + eps);
    u32* yr = (u32*)(y + row * d);
    for (int i = threadIdx.x; i < d >> 1; i += blockDim.x) {
        u32 v = xo[i], g = ((const u32*)w)[i];
        yr[i] = pack(lo(v) * scale * lo(g), hi(v) * scale * hi(g));
    }
}

// Rows [q | k | v]: adds the bias (which may be null) and the adapter's part, norms q and k where the family does (NORMED: Qwen3), turns
// them, writes q back and k, v into the pages of the row's sequence. Cache: [page][token of the page][key head][e], as PagedCache lays it
// out. A thread a pair (i, i + e/2); NORMED a block a head.
template <bool NORMED>
__device__ __forceinline__ void finish(u16* qkv, const u16* bias, const u16* query_norm, const u16* key_norm, float eps, const u16* extra, const int* slots, const int* positions, const int* sequences, const int* pages, int ld_pages,
    const float* cosines, const float* sines, u16* keys, u16* values, int h, int kv, int e, int page_tokens) {
    long long row = blockIdx.x;
    int position = positions[row], half = e >> 1, pair = NORMED ? blockIdx.y * half + threadIdx.x : blockIdx.y * blockDim.x + threadIdx.x;
    bool mine = NORMED ? threadIdx.x < half : pair < (h + 2 * kv) * half;
    // With norms the whole block goes or stays: it adds up a head's squares.
    if (position < 0 || (!NORMED && !mine)) return;
    int head = NORMED ? blockIdx.y : pair / half, i = NORMED ? threadIdx.x : pair % half, which = head < h ? 0 : head < h + kv ? 1 : 2;
    long long ld = (long long)(h + 2 * kv) * e;
    u16* at = qkv + row * ld + head * e;
    float a = 0.f, b = 0.f;
    if (mine) {
        a = one(at[i]);
        b = one(at[i + half]);
        if (bias) {
            a = lo(pack(a + one(bias[head * e + i]), 0.f));
            b = lo(pack(b + one(bias[head * e + i + half]), 0.f));
        }
        if (extra && slots[row] >= 0) {
            const u16* more = extra + row * ld + head * e;
            a = lo(pack(a + one(more[i]), 0.f));
            b = lo(pack(b + one(more[i + half]), 0.f));
        }
    }
    if (NORMED && which < 2) {
        float scale = rsqrtf(block_sum(a * a + b * b) / e + eps);
        const u16* w = which == 0 ? query_norm : key_norm;
        if (mine) {
            a *= scale * one(w[i]);
            b *= scale * one(w[i + half]);
        }
    }
    if (!mine) return;
    if (which < 2) {
        float c = cosines[(long long)position * half + i], s = sines[(long long)position * half + i], x = a;
        a = x * c - b * s;
        b = b * c + x * s;
    }
    if (which > 0) {
        int key_head = head - (which == 1 ? h : h + kv);
        long long page = pages[(long long)sequences[row] * ld_pages + position / page_tokens];
        at = (which == 1 ? keys : values) + ((page * page_tokens + position % page_tokens) * kv + key_head) * e;
    }
    at[i] = (u16)pack(a, 0.f);
    at[i + half] = (u16)pack(b, 0.f);
}

#define FINISH(NAME, NORMED) \
    extern "C" __global__ void NAME(u16* qkv, const u16* bias, const u16* query_norm, const u16* key_norm, float eps, const u16* extra, const int* slots, const int* positions, const int* sequences, const int* pages, int ld_pages, \
        const float* cosines, const float* sines, u16* keys, u16* values, int h, int kv, int e, int page_tokens) { \
        finish<NORMED>(qkv, bias, query_norm, key_norm, eps, extra, slots, positions, sequences, pages, ld_pages, cosines, sines, keys, values, h, kv, e, page_tokens); \
    }
FINISH(finish_qkv, false)
FINISH(finish_qkv_normed, true)

// Attention of each row to the tokens up to its own position, in pages. A block a (row, key head, part of the tokens) of
// eight warps; each lane takes a token for q.k, then columns for p.v, with many loads under way at once: at these lengths
// latency is what counts. The last part to finish merges (FlashDecoding).
template <int E, int G>
__device__ void attend(const u16* q, int ld_q, const u16* keys, const u16* values, const int* positions, const int* sequences, const int* pages, int ld_pages,
    u16* out, float* partial, int* arrived, int h, int kv, int group, int page_tokens, float scale) {
    constexpr int W = 8, C = E / 32, B = 16;
    __shared__ __align__(16) float query[G][E];
    __shared__ float weight[W][32][G];
    __shared__ float best[W][G], total[W][G];
    __shared__ float merged[W][G][E];
    __shared__ int last;
    long long row = blockIdx.x;
    int key_head = blockIdx.y, parts = gridDim.z, warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    int length = positions[row] + 1;
    if (length <= 0) return;
    for (int i = threadIdx.x; i < group * E; i += blockDim.x)
        query[i / E][i % E] = one(q[row * ld_q + (long long)(key_head * group) * E + i]) * scale;
    int each = ((length + parts - 1) / parts + 31) / 32 * 32, from = blockIdx.z * each, to = min(length, from + each);
    const int* table = pages + (long long)sequences[row] * ld_pages;
    float m[G], l[G], acc[G][C];
    #pragma unroll
    for (int g = 0; g < G; g++) {
        m[g] = -1e30f; l[g] = 0.f;
        #pragma unroll
        for (int c = 0; c < C; c++) acc[g][c] = 0.f;
    }
    __syncthreads();
    for (int start = from + warp * 32; start < to; start += W * 32) {
        int token = start + lane;
        bool in = token < to;
        // Elements before the token's K and V, the same in both.
        long long place = in ? (((long long)table[token / page_tokens] * page_tokens + token % page_tokens) * kv + key_head) * E : 0;
        float score[G];
        #pragma unroll
        for (int g = 0; g < G; g++) score[g] = in ? 0.f : -1e30f;
        if (in) {
            const uint4* k = (const uint4*)(keys + place);
            uint4 loaded[E / 8];
            #pragma unroll
            for (int i = 0; i < E / 8; i++) loaded[i] = k[i];
            #pragma unroll
            for (int i = 0; i < E / 8; i++) {
                float f[8];
                unpack(loaded[i], f);
                #pragma unroll
                for (int g = 0; g < G; g++) {
                    if (g < group) {
                        float4 a = *(const float4*)&query[g][i * 8], b = *(const float4*)&query[g][i * 8 + 4];
                        score[g] += f[0] * a.x + f[1] * a.y + f[2] * a.z + f[3] * a.w + f[4] * b.x + f[5] * b.y + f[6] * b.z + f[7] * b.w;
                    }
                }
            }
        }
        #pragma unroll
        for (int g = 0; g < G; g++) {
            if (g < group) {
                float top = score[g];
                #pragma unroll
                for (int o = 16; o; o >>= 1) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, o));
                top = fmaxf(top, m[g]);
                float keep = __expf(m[g] - top), p = in ? __expf(score[g] - top) : 0.f, sum = p;
                #pragma unroll
                for (int o = 16; o; o >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, o);
                l[g] = l[g] * keep + sum;
                m[g] = top;
                #pragma unroll
                for (int c = 0; c < C; c++) acc[g][c] *= keep;
                weight[warp][lane][g] = p;
            }
        }
        __syncwarp();
        #pragma unroll
        for (int i = 0; i < 32; i += B) {
            if (start + i >= to) break;
            // Beyond the end the weight is 0, and place 0 is there.
            __align__(8) u16 loaded[B][C];
            #pragma unroll
            for (int b = 0; b < B; b++) {
                const u16* v = values + __shfl_sync(0xffffffffu, place, i + b) + lane * C;
                if (C == 2) *(u32*)loaded[b] = *(const u32*)v;
                else if (C == 4) *(uint2*)loaded[b] = *(const uint2*)v;
                else {
                    #pragma unroll
                    for (int c = 0; c < C; c++) loaded[b][c] = v[c];
                }
            }
            #pragma unroll
            for (int b = 0; b < B; b++) {
                #pragma unroll
                for (int g = 0; g < G; g++) {
                    if (g < group) {
                        float p = weight[warp][i + b][g];
                        #pragma unroll
                        for (int c = 0; c < C; c++) acc[g][c] += p * one(loaded[b][c]);
                    }
                }
            }
        }
        __syncwarp();
    }
    #pragma unroll
    for (int g = 0; g < G; g++) {
        if (g < group) {
            if (lane == 0) { best[warp][g] = m[g]; total[warp][g] = l[g]; }
            #pragma unroll
            for (int c = 0; c < C; c++) merged[warp][g][lane * C + c] = acc[g][c];
        }
    }
    __syncthreads();
    long long head = row * h + (long long)key_head * group;
    for (int i = threadIdx.x; i < group * E; i += blockDim.x) {
        int g = i / E, c = i % E;
        float top = best[0][g], sum = 0.f, value = 0.f;
        for (int w = 1; w < W; w++) top = fmaxf(top, best[w][g]);
        for (int w = 0; w < W; w++) {
            float f = __expf(best[w][g] - top);
            sum += total[w][g] * f;
            value += merged[w][g][c] * f;
        }
        if (parts == 1) {
            out[(head + g) * E + c] = (u16)pack(value / sum, 0.f);
        } else {
            float* to_part = partial + ((head + g) * parts + blockIdx.z) * (E + 2);
            to_part[c] = value;
            if (c == 0) { to_part[E] = top; to_part[E + 1] = sum; }
        }
    }
    if (parts == 1) return;
    __threadfence();
    __syncthreads();
    int* counter = arrived + row * kv + key_head;
    if (threadIdx.x == 0) last = atomicAdd(counter, 1) == parts - 1;
    __syncthreads();
    if (!last) return;
    __threadfence();
    for (int i = threadIdx.x; i < group * E; i += blockDim.x) {
        int g = i / E, c = i % E;
        const float* from_part = partial + (head + g) * parts * (E + 2);
        float top = -1e30f, sum = 0.f, value = 0.f;
        for (int z = 0; z < parts; z++) top = fmaxf(top, __ldcg(from_part + z * (E + 2) + E));
        for (int z = 0; z < parts; z++) {
            float f = __expf(__ldcg(from_part + z * (E + 2) + E) - top);
            sum += __ldcg(from_part + z * (E + 2) + E + 1) * f;
            value += __ldcg(from_part + z * (E + 2) + c) * f;
        }
        out[(head + g) * E + c] = (u16)pack(value / sum, 0.f);
    }
    if (threadIdx.x == 0) *counter = 0;
}

#define ATTEND(E, G) extern "C" __global__ void __launch_bounds__(256) attend_##E##_##G(const u16* q, int ld_q, const u16* keys, const u16* values, const int* positions, const int* sequences, \
    const int* pages, int ld_pages, u16* out, float* partial, int* arrived, int h, int kv, int group, int page_tokens, float scale) { \
    attend<E, G>(q, ld_q, keys, values, positions, sequences, pages, ld_pages, out, partial, arrived, h, kv, group, page_tokens, scale); }
ATTEND(32, 4)
ATTEND(32, 8)
ATTEND(64, 4)
ATTEND(64, 8)
ATTEND(96, 4)
ATTEND(96, 8)
ATTEND(128, 4)
ATTEND(128, 8)

// a = silu(g) * u for rows [g | u], each with the adapter's part. A thread two columns.
extern "C" __global__ void add_swiglu(const u16* gu, const u16* extra, const int* slots, u16* a, int f) {
    long long row = blockIdx.y;
    int i = (blockIdx.x * blockDim.x + threadIdx.x) * 2;
    if (i >= f) return;
    long long place = row * 2 * f + i;
    u32 g = *(const u32*)(gu + place), u = *(const u32*)(gu + place + f);
    float g0 = lo(g), g1 = hi(g), u0 = lo(u), u1 = hi(u);
    if (extra && slots[row] >= 0) {
        u32 more = *(const u32*)(extra + place);
        g0 += lo(more);
        g1 += hi(more);
        more = *(const u32*)(extra + place + f);
        u0 += lo(more);
        u1 += hi(more);
    }
    g0 *= 1.f / (1.f + __expf(-g0));
    g1 *= 1.f / (1.f + __expf(-g1));
    *(u32*)(a + row * f + i) = pack(g0 * u0, g1 * u1);
}

// Copies the rows that give a token: out[i] = x[rows[i]].
extern "C" __global__ void gather_rows(const u16* x, const int* rows, u16* out, int d) {
    const uint4* source = (const uint4*)(x + (long long)rows[blockIdx.x] * d);
    for (int i = threadIdx.x; i < d >> 3; i += blockDim.x) ((uint4*)(out + (long long)blockIdx.x * d))[i] = source[i];
}

__device__ __forceinline__ u32 mix(u32 x) {
    x ^= x >> 16; x *= 0x7feb352du; x ^= x >> 15; x *= 0x846ca68bu; x ^= x >> 16;
    return x;
}

// Chooses the largest of logit / temperature + Gumbel noise (a draw from the softmax), or the largest logit at temperature
// 0, and its log-probability. With 'advance' the rows go on by one token: tokens and positions are the next step's.
extern "C" __global__ void choose(const u16* logits, int v, const float* temperatures, const u32* seeds, const int* chosen_rows, int* tokens, int* positions, int* chosen, float* log_probabilities, int advance) {
    __shared__ float value[32], top_logit[32];
    __shared__ int index[32];
    __shared__ float sums[32];
    long long row = blockIdx.x;
    int source = chosen_rows[row];
    const u16* x = logits + row * (long long)v;
    float temperature = temperatures[row], inverse = temperature > 0.f ? 1.f / temperature : 1.f;
    u32 seed = mix(seeds[row] ^ mix((u32)positions[source] + 0x9e3779b9u));
    float best = -3.4e38f, most = -3.4e38f, sum = 0.f, f[8];
    int at = 0;
    for (int i = threadIdx.x; i < v >> 3; i += blockDim.x) {
        unpack(((const uint4*)x)[i], f);
        float m = f[0];
        #pragma unroll
        for (int j = 1; j < 8; j++) m = fmaxf(m, f[j]);
        if (m > most) { sum *= __expf(most - m); most = m; }
        #pragma unroll
        for (int j = 0; j < 8; j++) {
            sum += __expf(f[j] - most);
            float key = f[j];
            if (temperature > 0.f) {
                float uniform = ((mix(seed + (u32)(i * 8 + j) * 0x9e3779b9u) >> 8) + 0.5f) * (1.f / 16777216.f);
                key = key * inverse - __logf(-__logf(uniform));
            }
            if (key > best) { best = key; at = i * 8 + j; }
        }
    }
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, warps = blockDim.x >> 5;
    #pragma unroll
    for (int o = 16; o; o >>= 1) {
        float other = __shfl_xor_sync(0xffffffffu, best, o), other_most = __shfl_xor_sync(0xffffffffu, most, o), other_sum = __shfl_xor_sync(0xffffffffu, sum, o);
        int other_at = __shfl_xor_sync(0xffffffffu, at, o);
        if (other > best || (other == best && other_at < at)) { best = other; at = other_at; }
        float m = fmaxf(most, other_most);
        sum = sum * __expf(most - m) + other_sum * __expf(other_most - m);
        most = m;
    }
    if (lane == 0) { value[warp] = best; index[warp] = at; top_logit[warp] = most; sums[warp] = sum; }
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int w = 1; w < warps; w++) {
            if (value[w] > best || (value[w] == best && index[w] < at)) { best = value[w]; at = index[w]; }
            float m = fmaxf(most, top_logit[w]);
            sum = sum * __expf(most - m) + sums[w] * __expf(top_logit[w] - m);
            most = m;
        }
        chosen[row] = at;
        log_probabilities[row] = one(x[at]) - (most + __logf(sum));
        if (advance && positions[source] >= 0) { tokens[source] = at; positions[source]++; }
    }
}
