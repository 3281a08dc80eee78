using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using LoraSharp.Formats;
using LoraSharp.Tensors.Interop;

namespace LoraSharp.Quantization;

/// <summary>
/// The fast version of <see cref="FourBitReference.Dequantize"/> to float32, bfloat16 or float16. A block has only 16
/// different values: they are computed and rounded once, then looked up, so that every version gives the same bits as
/// rounding each product.
/// </summary>
internal static unsafe class FourBitDequantizer
{
    // Blocks whose scales are decoded at a time.
    private const int Batch = 128;

    /// <summary>Dequantises a flat tensor.</summary>
    /// <param name="packed">(n + 1) / 2 bytes.</param>
    /// <param name="scales">One a block.</param>
    /// <param name="count">n.</param>
    /// <param name="blockSize">Values a block.</param>
    /// <param name="codebook">NF4 or FP4.</param>
    /// <param name="target">n values of <paramref name="type"/>.</param>
    /// <param name="type">F32, BF16 or F16.</param>
    /// <param name="width">Which version of the kernel.</param>
    /// <param name="rounding">Type that values are rounded to first (<see cref="BlockTable"/>); F32 for none.</param>
    public static void Dequantize(byte* packed, ScaleTable scales, long count, int blockSize, FourBitCodebook codebook, void* target, ElementType type, VectorWidth width, ElementType rounding = ElementType.F32)
    {
        float* values = stackalloc float[16];
        codebook.Values.CopyTo(new Span<float>(values, 16));
        var work = new Work
        {
            Packed = packed,
            Scales = scales,
            Count = count,
            BlockSize = blockSize,
            Codebook = values,
            Target = (byte*)target,
            Type = type,
            Rounding = rounding,
            Width = width,
        };

        // 16k weights take about 5 µs.
        ParallelRange.For(0, FourBitReference.Blocks(count, blockSize), Math.Max(1, 16384 / blockSize), ref work);
    }

    private struct Work : IRangeWork
    {
        public byte* Packed;
        public ScaleTable Scales;
        public long Count;
        public int BlockSize;
        public float* Codebook;
        public byte* Target;
        public ElementType Type;
        public ElementType Rounding;
        public VectorWidth Width;

        public readonly void Run(long begin, long end)
        {
            float* scratch = stackalloc float[Batch];
            Vector512<float> codebook = Vector512.Load(Codebook);
            float* table = stackalloc float[16];
            ushort* halves = stackalloc ushort[32];
            for (long first = begin; first < end; first += Batch)
            {
                int blocks = (int)Math.Min(Batch, end - first);
                float* scales = Scales.Read(first, blocks, scratch);
                for (int b = 0; b < blocks; b++)
                {
                    long start = (first + b) * BlockSize;
                    int length = (int)Math.Min(BlockSize, Count - start);
                    byte* codes = Packed + (start / 2);
                    if (Width == VectorWidth.Avx512 && Type != ElementType.F16)
                    {
                        // The table stays in a register: storing it in pieces to load it whole would stall every block.
                        Expand512(codes, codebook, scales[b], start, length);
                    }
                    else if (Type == ElementType.F32)
                    {
                        BlockTable.Make(Codebook, scales[b], Rounding, table);
                        Expand(codes, table, (float*)Target + start, length);
                    }
                    else
                    {
                        BlockTable.Make(Codebook, scales[b], Rounding, Type, halves);
                        Expand(codes, halves, (ushort*)Target + start, length);
                    }
                }
            }
        }

        private readonly void Expand512(byte* codes, Vector512<float> codebook, float scale, long start, int length)
        {
            int i = 0;
            if (Type == ElementType.F32)
            {
                Vector512<float> values = BlockTable.Make(codebook, scale, Rounding);
                float* target = (float*)Target + start;
                for (; i + 16 <= length; i += 16)
                {
                    // A byte in each 64-bit lane: its high half is the first value's code, its low half the second's.
                    // The lookup reads the low four bits of each 32-bit index.
                    Vector512<ulong> bytes = Avx512F.ConvertToVector512UInt64(Vector128.CreateScalarUnsafe(*(ulong*)(codes + (i / 2))).AsByte());
                    Vector512<int> index = ((bytes >> 4) | (bytes << 32)).AsInt32();
                    Avx512F.PermuteVar16x32(values, index).Store(target + i);
                }

                for (; i < length; i++)
                {
                    target[i] = values.GetElement(Code(codes, i));
                }
            }
            else
            {
                Vector512<ushort> values = BlockTable.MakeBFloat16(codebook, scale, Rounding);
                ushort* target = (ushort*)Target + start;
                for (; i + 32 <= length; i += 32)
                {
                    // The lookup reads five bits of each 16-bit index; the table is there twice, so the fifth is idle.
                    Vector512<uint> bytes = Avx512F.ConvertToVector512UInt32(Vector128.Load(codes + (i / 2)));
                    Vector512<ushort> index = ((bytes >> 4) | (bytes << 16)).AsUInt16();
                    Avx512BW.PermuteVar32x16(values, index).Store(target + i);
                }

                for (; i < length; i++)
                {
                    target[i] = values.GetElement(Code(codes, i));
                }
            }
        }

        private static int Code(byte* codes, int i) => (i & 1) == 0 ? codes[i / 2] >> 4 : codes[i / 2] & 15;

        private readonly void Expand(byte* codes, float* table, float* target, int length)
        {
            int i = 0;
            if (Width == VectorWidth.Avx2)
            {
                Vector256<float> low = Vector256.Load(table);
                Vector256<float> high = Vector256.Load(table + 8);
                for (; i + 8 <= length; i += 8)
                {
                    Vector256<ulong> bytes = Avx2.ConvertToVector256Int64(Vector128.CreateScalarUnsafe(*(uint*)(codes + (i / 2))).AsByte()).AsUInt64();
                    Vector256<int> index = ((bytes >> 4) | (bytes << 32)).AsInt32();
                    Lookup(low, high, index).Store(target + i);
                }
            }

            for (; i < length; i++)
            {
                target[i] = table[Code(codes, i)];
            }
        }

        private readonly void Expand(byte* codes, ushort* table, ushort* target, int length)
        {
            int i = 0;
            if (Width == VectorWidth.Avx512)
            {
                Vector512<ushort> values = Vector512.Load(table);
                for (; i + 32 <= length; i += 32)
                {
                    // The lookup reads five bits of each 16-bit index; the table is there twice, so the fifth is idle.
                    Vector512<uint> bytes = Avx512F.ConvertToVector512UInt32(Vector128.Load(codes + (i / 2)));
                    Vector512<ushort> index = ((bytes >> 4) | (bytes << 16)).AsUInt16();
                    Avx512BW.PermuteVar32x16(values, index).Store(target + i);
                }
            }
            else if (Width == VectorWidth.Avx2)
            {
                // 16-bit values as two tables of bytes.
                Vector128<ushort> first = Vector128.Load(table);
                Vector128<ushort> second = Vector128.Load(table + 8);
                Vector128<byte> lows = Vector128.Narrow(first & Vector128.Create((ushort)0xFF), second & Vector128.Create((ushort)0xFF));
                Vector128<byte> highs = Vector128.Narrow(first >> 8, second >> 8);
                for (; i + 32 <= length; i += 32)
                {
                    Vector128<byte> bytes = Vector128.Load(codes + (i / 2));
                    Vector128<byte> even = (bytes.AsUInt16() >> 4).AsByte() & Vector128.Create((byte)15);
                    Vector128<byte> odd = bytes & Vector128.Create((byte)15);
                    Vector128<byte> a = Sse2.UnpackLow(even, odd);
                    Vector128<byte> b = Sse2.UnpackHigh(even, odd);
                    Vector128<byte> aLow = Ssse3.Shuffle(lows, a);
                    Vector128<byte> aHigh = Ssse3.Shuffle(highs, a);
                    Vector128<byte> bLow = Ssse3.Shuffle(lows, b);
                    Vector128<byte> bHigh = Ssse3.Shuffle(highs, b);
                    Sse2.UnpackLow(aLow, aHigh).AsUInt16().Store(target + i);
                    Sse2.UnpackHigh(aLow, aHigh).AsUInt16().Store(target + i + 8);
                    Sse2.UnpackLow(bLow, bHigh).AsUInt16().Store(target + i + 16);
                    Sse2.UnpackHigh(bLow, bHigh).AsUInt16().Store(target + i + 24);
                }
            }

            for (; i < length; i++)
            {
                target[i] = table[Code(codes, i)];
            }
        }
    }

    /// <summary>A lookup in 16 floats held by two registers: bit 3 of the index chooses between them.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static Vector256<float> Lookup(Vector256<float> low, Vector256<float> high, Vector256<int> index) =>
        Avx.BlendVariable(Avx2.PermuteVar8x32(low, index), Avx2.PermuteVar8x32(high, index), (index << 28).AsSingle());
}
