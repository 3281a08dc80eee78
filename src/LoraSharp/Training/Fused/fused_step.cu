// Kernels of the fused LoRA training step (FusedLoraStep.cs): everything between the matrix products.
// bf16 in and out, float32 inside, 16-byte accesses: all are bound by memory traffic. One block a row where a row is
// reduced. 'ld' is a row's stride in elements; every width and stride is a multiple of 8.
#include "bf16_math.cu"

__device__ __forceinline__ float warp_sum(float v) {
    #pragma unroll
    for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
    return v;
}

// x_out = x + delta (delta may be null: then x_out is not written), y = x_out * rstd * w, rstd kept.
extern "C" __global__ void add_rmsnorm(const u16* x, const u16* delta, const u16* w, u16* x_out, u16* y, float* rstd, int d, long long ld_y, float eps) {
    long long row = blockIdx.x;
    const uint4* xr = (const uint4*)(x + row * d);
    const uint4* dr = delta ? (const uint4*)(delta + row * d) : 0;
    uint4* xo = (uint4*)(x_out + row * d);
    int n = d >> 3;
    float sum = 0.f, f[8], g[8];
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        uint4 v = xr[i];
        unpack(v, f);
        if (dr) {
            unpack(dr[i], g);
            #pragma unroll
            for (int j = 0; j < 8; j++) f[j] += g[j];
            v = repack(f);
            xo[i] = v;
            unpack(v, f);
        }
        #pragma unroll
        for (int j = 0; j < 8; j++) sum += f[j] * f[j];
    }
    float scale = rsqrtf(block_sum(sum) / d + eps);
    if (threadIdx.x == 0) rstd[row] = scale;
    const uint4* src = dr ? (const uint4*)xo : xr;
    uint4* yr = (uint4*)(y + row * ld_y);
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        unpack(src[i], f);
        unpack(((const uint4*)w)[i], g);
        #pragma unroll
        for (int j = 0; j < 8; j++) f[j] = f[j] * scale * g[j];
        yr[i] = repack(f);
    }
}

// y = x * rstd * w again, with the rstd that was kept.
extern "C" __global__ void rmsnorm_again(const u16* x, const u16* w, const float* rstd, u16* y, int d, long long ld_y) {
    long long row = blockIdx.x;
    float scale = rstd[row], f[8], g[8];
    const uint4* xr = (const uint4*)(x + row * d);
    uint4* yr = (uint4*)(y + row * ld_y);
    for (int i = threadIdx.x; i < d >> 3; i += blockDim.x) {
        unpack(xr[i], f);
        unpack(((const uint4*)w)[i], g);
        #pragma unroll
        for (int j = 0; j < 8; j++) f[j] = f[j] * scale * g[j];
        yr[i] = repack(f);
    }
}

// dres = (accumulate ? dres : 0) + rstd * (w*dy - x * rstd^2 * mean(w*dy*x)).
extern "C" __global__ void rmsnorm_backward(const u16* dy, const u16* x, const u16* w, const float* rstd, u16* dres, int d, long long ld_dres, int accumulate) {
    long long row = blockIdx.x;
    float scale = rstd[row], f[8], g[8], h[8], sum = 0.f;
    const uint4* dyr = (const uint4*)(dy + row * d);
    const uint4* xr = (const uint4*)(x + row * d);
    uint4* out = (uint4*)(dres + row * ld_dres);
    int n = d >> 3;
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        unpack(dyr[i], f);
        unpack(xr[i], g);
        unpack(((const uint4*)w)[i], h);
        #pragma unroll
        for (int j = 0; j < 8; j++) sum += f[j] * g[j] * h[j];
    }
    float c = block_sum(sum) * scale * scale / d;
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        unpack(dyr[i], f);
        unpack(xr[i], g);
        unpack(((const uint4*)w)[i], h);
        #pragma unroll
        for (int j = 0; j < 8; j++) f[j] = scale * (f[j] * h[j] - g[j] * c);
        if (accumulate) {
            unpack(out[i], g);
            #pragma unroll
            for (int j = 0; j < 8; j++) f[j] += g[j];
        }
        out[i] = repack(f);
    }
}

// Adds the bias (which may be null) to the 'all' heads of each row and rotates the first 'heads' of them, in place; cos and sin
// are [positions, e/2], pairs are (i, i + e/2).
extern "C" __global__ void rope(u16* x, const u16* bias, const int* positions, const float* cosines, const float* sines, int heads, int all, int e, long long ld) {
    long long row = blockIdx.x;
    int half = e >> 1, per = half >> 1;
    long long base = (long long)positions[row] * half;
    for (int i = threadIdx.x; i < (bias ? all : heads) * per; i += blockDim.x) {
        int head = i / per, j = (i % per) * 2;
        u32* a = (u32*)(x + row * ld + head * e + j);
        u32* b = (u32*)(x + row * ld + head * e + half + j);
        u32 va = *a, vb = *b;
        if (bias) {
            u32 more_a = *(const u32*)(bias + head * e + j), more_b = *(const u32*)(bias + head * e + half + j);
            va = pack(lo(va) + lo(more_a), hi(va) + hi(more_a));
            vb = pack(lo(vb) + lo(more_b), hi(vb) + hi(more_b));
            if (head >= heads) { *a = va; *b = vb; continue; }
        }
        float c0 = cosines[base + j], c1 = cosines[base + j + 1], s0 = sines[base + j], s1 = sines[base + j + 1];
        *a = pack(lo(va) * c0 - lo(vb) * s0, hi(va) * c1 - hi(vb) * s1);
        *b = pack(lo(vb) * c0 + lo(va) * s0, hi(vb) * c1 + hi(va) * s1);
    }
}

// Gathers dq [b, h, s, e], dk, dv [b, k, s, e] (any strides, last 1) into rows [q | k | v], turning q and k back.
extern "C" __global__ void rope_backward(const u16* dq, const u16* dk, const u16* dv, u16* out, const int* positions, const float* cosines, const float* sines,
    int seq, int h, int kv, int e, long long ld, long long qb, long long qh, long long qs, long long kb, long long kh, long long ks, long long vb, long long vh, long long vs) {
    long long row = blockIdx.x;
    long long b = row / seq, s = row % seq;
    int half = e >> 1, per = half >> 1;
    long long base = (long long)positions[row] * half;
    int total = h + 2 * kv;
    for (int i = threadIdx.x; i < total * per; i += blockDim.x) {
        int head = i / per, j = (i % per) * 2;
        const u16* src;
        if (head < h) src = dq + b * qb + head * qh + s * qs;
        else if (head < h + kv) src = dk + b * kb + (head - h) * kh + s * ks;
        else src = dv + b * vb + (head - h - kv) * vh + s * vs;
        u32 va = *(const u32*)(src + j), vc = *(const u32*)(src + half + j);
        u32* a = (u32*)(out + row * ld + head * e + j);
        u32* c = (u32*)(out + row * ld + head * e + half + j);
        if (head < h + kv) {
            float c0 = cosines[base + j], c1 = cosines[base + j + 1], s0 = -sines[base + j], s1 = -sines[base + j + 1];
            *a = pack(lo(va) * c0 - lo(vc) * s0, hi(va) * c1 - hi(vc) * s1);
            *c = pack(lo(vc) * c0 + lo(va) * s0, hi(vc) * c1 + hi(va) * s1);
        } else {
            *a = va;
            *c = vc;
        }
    }
}

// The same where each head of q and k is normed before it is turned (Qwen3): adds the bias (which may be null) in place, and writes
// y = turn(x * rstd * w) of q and k into rows of their own [(h + kv) * e]; x stays for the backward pass. A warp a head.
extern "C" __global__ void norm_rope(u16* x, const u16* bias, const u16* query_norm, const u16* key_norm, u16* y, const int* positions, const float* cosines, const float* sines, int h, int kv, int e, long long ld, float eps) {
    long long row = blockIdx.x;
    int half = e >> 1, warp = threadIdx.x >> 5, warps = blockDim.x >> 5, lane = threadIdx.x & 31;
    long long base = (long long)positions[row] * half;
    for (int head = warp; head < (bias ? h + 2 * kv : h + kv); head += warps) {
        u16* from = x + row * ld + head * e;
        float sum = 0.f;
        for (int j = lane * 2; j < half; j += 64) {
            u32 va = *(u32*)(from + j), vb = *(u32*)(from + half + j);
            if (bias) {
                u32 more_a = *(const u32*)(bias + head * e + j), more_b = *(const u32*)(bias + head * e + half + j);
                va = pack(lo(va) + lo(more_a), hi(va) + hi(more_a));
                vb = pack(lo(vb) + lo(more_b), hi(vb) + hi(more_b));
                *(u32*)(from + j) = va;
                *(u32*)(from + half + j) = vb;
            }
            sum += lo(va) * lo(va) + hi(va) * hi(va) + lo(vb) * lo(vb) + hi(vb) * hi(vb);
        }
        if (head >= h + kv) continue;
        float scale = rsqrtf(warp_sum(sum) / e + eps);
        const u16* w = head < h ? query_norm : key_norm;
        u16* to = y + (row * (h + kv) + head) * e;
        for (int j = lane * 2; j < half; j += 64) {
            u32 va = *(const u32*)(from + j), vb = *(const u32*)(from + half + j), wa = *(const u32*)(w + j), wb = *(const u32*)(w + half + j);
            float a0 = lo(va) * scale * lo(wa), a1 = hi(va) * scale * hi(wa), b0 = lo(vb) * scale * lo(wb), b1 = hi(vb) * scale * hi(wb);
            float c0 = cosines[base + j], c1 = cosines[base + j + 1], s0 = sines[base + j], s1 = sines[base + j + 1];
            *(u32*)(to + j) = pack(a0 * c0 - b0 * s0, a1 * c1 - b1 * s1);
            *(u32*)(to + half + j) = pack(b0 * c0 + a0 * s0, b1 * c1 + a1 * s1);
        }
    }
}

// Its backward pass: x [q | k | v] before the norms becomes its gradient. Turned back, then as rmsnorm_backward, with the rstd computed again.
extern "C" __global__ void norm_rope_backward(const u16* dq, const u16* dk, const u16* dv, u16* x, const u16* query_norm, const u16* key_norm, const int* positions, const float* cosines, const float* sines,
    int seq, int h, int kv, int e, long long ld, float eps, long long qb, long long qh, long long qs, long long kb, long long kh, long long ks, long long vb, long long vh, long long vs) {
    long long row = blockIdx.x;
    long long b = row / seq, s = row % seq;
    int half = e >> 1, warp = threadIdx.x >> 5, warps = blockDim.x >> 5, lane = threadIdx.x & 31;
    long long base = (long long)positions[row] * half;
    for (int head = warp; head < h + 2 * kv; head += warps) {
        u16* at = x + row * ld + head * e;
        const u16* src;
        if (head < h) src = dq + b * qb + head * qh + s * qs;
        else if (head < h + kv) src = dk + b * kb + (head - h) * kh + s * ks;
        else src = dv + b * vb + (head - h - kv) * vh + s * vs;
        if (head >= h + kv) {
            for (int j = lane * 2; j < e; j += 64) *(u32*)(at + j) = *(const u32*)(src + j);
            continue;
        }
        const u16* w = head < h ? query_norm : key_norm;
        float squares = 0.f, sum = 0.f;
        // w * dy of the pairs at j, dy turned back.
        auto gradient = [&](int j, float (&g)[4]) {
            u32 va = *(const u32*)(src + j), vb2 = *(const u32*)(src + half + j), wa = *(const u32*)(w + j), wb = *(const u32*)(w + half + j);
            float c0 = cosines[base + j], c1 = cosines[base + j + 1], s0 = sines[base + j], s1 = sines[base + j + 1];
            g[0] = (lo(va) * c0 + lo(vb2) * s0) * lo(wa);
            g[1] = (hi(va) * c1 + hi(vb2) * s1) * hi(wa);
            g[2] = (lo(vb2) * c0 - lo(va) * s0) * lo(wb);
            g[3] = (hi(vb2) * c1 - hi(va) * s1) * hi(wb);
        };
        for (int j = lane * 2; j < half; j += 64) {
            float g[4];
            gradient(j, g);
            u32 xa = *(const u32*)(at + j), xb = *(const u32*)(at + half + j);
            squares += lo(xa) * lo(xa) + hi(xa) * hi(xa) + lo(xb) * lo(xb) + hi(xb) * hi(xb);
            sum += g[0] * lo(xa) + g[1] * hi(xa) + g[2] * lo(xb) + g[3] * hi(xb);
        }
        float scale = rsqrtf(warp_sum(squares) / e + eps), c = warp_sum(sum) * scale * scale / e;
        for (int j = lane * 2; j < half; j += 64) {
            float g[4];
            gradient(j, g);
            u32 xa = *(const u32*)(at + j), xb = *(const u32*)(at + half + j);
            *(u32*)(at + j) = pack(scale * (g[0] - lo(xa) * c), scale * (g[1] - hi(xa) * c));
            *(u32*)(at + half + j) = pack(scale * (g[2] - lo(xb) * c), scale * (g[3] - hi(xb) * c));
        }
    }
}

// Copies rows [k] into the first k columns of rows [ld].
extern "C" __global__ void place_rows(const u16* x, u16* out, int k, long long ld) {
    long long row = blockIdx.x;
    for (int i = threadIdx.x; i < k >> 3; i += blockDim.x) ((uint4*)(out + row * ld))[i] = ((const uint4*)(x + row * k))[i];
}

__device__ __forceinline__ float sigmoid(float x) { return 1.f / (1.f + __expf(-x)); }

// a = silu(g) * u for rows [g | u].
extern "C" __global__ void swiglu(const u16* gu, u16* a, int f, long long ld_gu, long long ld_a) {
    long long row = blockIdx.y;
    int i = (blockIdx.x * blockDim.x + threadIdx.x) * 8;
    if (i >= f) return;
    float g[8], u[8];
    unpack(*(const uint4*)(gu + row * ld_gu + i), g);
    unpack(*(const uint4*)(gu + row * ld_gu + f + i), u);
    #pragma unroll
    for (int j = 0; j < 8; j++) u[j] *= g[j] * sigmoid(g[j]);
    *(uint4*)(a + row * ld_a + i) = repack(u);
}

// [g | u] becomes [dg | du]; 'a' holds da and gets silu(g) * u again, for the gradient of the adapter that follows.
extern "C" __global__ void swiglu_backward(u16* gu, u16* a, int f, long long ld_gu, long long ld_a) {
    long long row = blockIdx.y;
    int i = (blockIdx.x * blockDim.x + threadIdx.x) * 8;
    if (i >= f) return;
    float g[8], u[8], d[8], s[8];
    unpack(*(const uint4*)(gu + row * ld_gu + i), g);
    unpack(*(const uint4*)(gu + row * ld_gu + f + i), u);
    unpack(*(const uint4*)(a + row * ld_a + i), d);
    #pragma unroll
    for (int j = 0; j < 8; j++) {
        float q = sigmoid(g[j]), silu = g[j] * q;
        s[j] = silu * u[j];
        g[j] = d[j] * u[j] * q * (1.f + g[j] * (1.f - q));
        u[j] = d[j] * silu;
    }
    *(uint4*)(gu + row * ld_gu + i) = repack(g);
    *(uint4*)(gu + row * ld_gu + f + i) = repack(u);
    *(uint4*)(a + row * ld_a + i) = repack(s);
}

// Per row: loss = logsumexp - logit[label]; the logits become (softmax - onehot) * inverse_count. Label -100: zeros.
extern "C" __global__ void cross_entropy(u16* logits, const long long* labels, float* loss, const float* inverse_count, int v) {
    long long row = blockIdx.x;
    u16* x = logits + row * (long long)v;
    long long label = labels[row];
    int n = v >> 3;
    if (label < 0) {
        for (int i = threadIdx.x; i < n; i += blockDim.x) ((uint4*)x)[i] = make_uint4(0, 0, 0, 0);
        if (threadIdx.x == 0) loss[row] = 0.f;
        return;
    }
    float most = -3.4e38f, sum = 0.f, f[8];
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        unpack(((const uint4*)x)[i], f);
        float m = f[0];
        #pragma unroll
        for (int j = 1; j < 8; j++) m = fmaxf(m, f[j]);
        if (m > most) { sum *= __expf(most - m); most = m; }
        #pragma unroll
        for (int j = 0; j < 8; j++) sum += __expf(f[j] - most);
    }
    __shared__ float high[32];
    float w = most;
    #pragma unroll
    for (int o = 16; o; o >>= 1) w = fmaxf(w, __shfl_xor_sync(0xffffffffu, w, o));
    if ((threadIdx.x & 31) == 0) high[threadIdx.x >> 5] = w;
    __syncthreads();
    w = (threadIdx.x & 31) < (blockDim.x >> 5) ? high[threadIdx.x & 31] : -3.4e38f;
    #pragma unroll
    for (int o = 16; o; o >>= 1) w = fmaxf(w, __shfl_xor_sync(0xffffffffu, w, o));
    float total = block_sum(sum * __expf(most - w));
    float log_sum = w + logf(total), scale = *inverse_count;
    if (threadIdx.x == 0) loss[row] = log_sum - one(x[label]);
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        unpack(((const uint4*)x)[i], f);
        #pragma unroll
        for (int j = 0; j < 8; j++) f[j] = (__expf(f[j] - log_sum) - (i * 8 + j == label ? 1.f : 0.f)) * scale;
        ((uint4*)x)[i] = repack(f);
    }
}

// The table of factors: 8 numbers each: offset in the flat parameters, rows, columns, destination address (0: none),
// destination stride, scale of the copy, scale of the gradient, factor of the learning rate (the last three as float bits).
__device__ __forceinline__ float bits(long long v) { return __int_as_float((int)v); }

// Writes trained float32 factors as bf16 into the spare rows and columns of the base matrices.
extern "C" __global__ void refresh_factors(const float* parameters, const long long* table) {
    const long long* t = table + (long long)blockIdx.x * 8;
    if (!t[3]) return;
    int columns = (int)t[2];
    long long count = t[1] * t[2];
    u16* dst = (u16*)t[3];
    float scale = bits(t[5]);
    for (long long i = (long long)blockIdx.y * blockDim.x + threadIdx.x; i < count; i += (long long)gridDim.y * blockDim.x)
        dst[i / columns * t[4] + i % columns] = (u16)pack(parameters[t[0] + i] * scale, 0.f);
}

// total = (first ? 0 : total) + gradient * scale; the first word of 'state' says whether it is the first micro-batch. The
// gradients are those from 'start' of the flat parameters on.
extern "C" __global__ void accumulate(const u16* gradients, long long start, float* total, const long long* table, const float* state) {
    const long long* t = table + (long long)blockIdx.x * 8;
    long long count = t[1] * t[2];
    float scale = bits(t[6]);
    bool first = state[0] != 0.f;
    for (long long i = (long long)blockIdx.y * blockDim.x + threadIdx.x; i < count; i += (long long)gridDim.y * blockDim.x) {
        float g = one(gradients[t[0] - start + i]) * scale;
        total[t[0] + i] = first ? g : total[t[0] + i] + g;
    }
}

extern "C" __global__ void square_sums(const float* x, long long n, float* partial) {
    float sum = 0.f;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (long long)gridDim.x * blockDim.x) sum += x[i] * x[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// out[0] = norm, out[1] = factor that brings it down to the largest allowed (torch's clip_grad_norm_). One block.
extern "C" __global__ void clip_factor(const float* partial, int n, float largest, float* out) {
    float sum = 0.f;
    for (int i = threadIdx.x; i < n; i += blockDim.x) sum += partial[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) {
        float norm = sqrtf(sum);
        out[0] = norm;
        out[1] = largest > 0.f ? fminf(1.f, largest / (norm + 1e-6f)) : 1.f;
    }
}

// out[0] = (accumulate by 'state' ? out[0] : 0) + sum of x * scale[0]. One block.
extern "C" __global__ void sum_loss(const float* x, int n, const float* scale, const float* state, float* out) {
    float sum = 0.f;
    for (int i = threadIdx.x; i < n; i += blockDim.x) sum += x[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) out[0] = (state[0] != 0.f ? 0.f : out[0]) + sum * scale[0];
}

// AdamW (Loshchilov and Hutter 2019) as torch's fused operator computes it, then the bf16 copy into the base matrices.
// hyper: lr, beta1, beta2, eps, weight decay, 1 - beta1^t, sqrt(1 - beta2^t); clip[1]: factor on the gradient.
extern "C" __global__ void adamw(float* parameters, const float* gradients, float* first, float* second, const long long* table, const float* hyper, const float* clip) {
    const long long* t = table + (long long)blockIdx.x * 8;
    int columns = (int)t[2];
    long long count = t[1] * t[2];
    u16* dst = (u16*)t[3];
    float scale = bits(t[5]), lr = hyper[0] * bits(t[7]), b1 = hyper[1], b2 = hyper[2], eps = hyper[3], decay = 1.f - lr * hyper[4], factor = clip[1];
    float step = lr / hyper[5], root = hyper[6];
    for (long long i = (long long)blockIdx.y * blockDim.x + threadIdx.x; i < count; i += (long long)gridDim.y * blockDim.x) {
        long long k = t[0] + i;
        float g = gradients[k] * factor, m = b1 * first[k] + (1.f - b1) * g, v = b2 * second[k] + (1.f - b2) * g * g;
        float p = parameters[k] * decay - step * m / (sqrtf(v) / root + eps);
        first[k] = m;
        second[k] = v;
        parameters[k] = p;
        if (dst) dst[i / columns * t[4] + i % columns] = (u16)pack(p * scale, 0.f);
    }
}
