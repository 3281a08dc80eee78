using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using LoraSharp.Formats;
using LoraSharp.Tensors.Interop;

namespace LoraSharp.Quantization;

/// <summary>
/// The fast version of <see cref="FourBitReference.Quantize"/>, from float32, bfloat16 or float16, on all of torch's
/// threads. Gives the same bits.
/// </summary>
public static unsafe class FourBitQuantizer
{
    private const float Tiny = 1e-38f;

    // Blocks a thread should have at least: about 10 µs of work.
    private const long Grain = 256;

    /// <summary>Quantises a flat tensor.</summary>
    /// <param name="values">n values of <paramref name="type"/>.</param>
    /// <param name="type">F32, BF16 or F16.</param>
    /// <param name="count">n.</param>
    /// <param name="blockSize">Values that share one scale: 32, 64 … 4096.</param>
    /// <param name="codebook">NF4 or FP4.</param>
    /// <param name="packed">(n + 1) / 2 bytes.</param>
    /// <param name="absmax">One scale a block. A block that holds NaN or infinity gets a scale that is not finite.</param>
    /// <param name="width">Which version of the kernel; null: the best.</param>
    public static void Quantize(void* values, ElementType type, long count, int blockSize, FourBitCodebook codebook, byte* packed, float* absmax, VectorWidth? width = null)
    {
        ArgumentNullException.ThrowIfNull(codebook);
        if (!FourBitCodebook.IsBlockSize(blockSize))
        {
            throw new LoraSharpException($"Block size {blockSize}: expected a power of two from {FourBitCodebook.SmallestBlock} to {FourBitCodebook.LargestBlock}.");
        }

        if (type is not (ElementType.F32 or ElementType.BF16 or ElementType.F16))
        {
            throw new LoraSharpException($"A tensor of type {type} cannot be quantised to 4 bits; expected F32, BF16 or F16.");
        }

        byte* ranks = stackalloc byte[16];
        float* borders = stackalloc float[16];
        codebook.CodeOfRank.CopyTo(new Span<byte>(ranks, 16));
        codebook.Borders.CopyTo(new Span<float>(borders, 16));
        var work = new Work
        {
            Values = (byte*)values,
            Type = type,
            Count = count,
            BlockSize = blockSize,
            Packed = packed,
            Absmax = absmax,
            Borders = borders,
            CodeOfRank = ranks,
            Width = width ?? VectorWidths.Best,
        };
        ParallelRange.For(0, FourBitReference.Blocks(count, blockSize), Math.Max(1, Grain * 64 / blockSize), ref work);
    }

    private struct Work : IRangeWork
    {
        public byte* Values;
        public ElementType Type;
        public long Count;
        public int BlockSize;
        public byte* Packed;
        public float* Absmax;
        public float* Borders;
        public byte* CodeOfRank;
        public VectorWidth Width;

        public readonly void Run(long begin, long end)
        {
            float* scratch = stackalloc float[FourBitCodebook.LargestBlock];
            byte* codes = stackalloc byte[FourBitCodebook.LargestBlock];
            for (long block = begin; block < end; block++)
            {
                long start = block * BlockSize;
                int length = (int)Math.Min(BlockSize, Count - start);
                float* piece = Load(start, length, scratch);
                byte* target = Packed + (start / 2);
                if (length < BlockSize)
                {
                    Last(piece, length, block, target);
                }
                else
                {
                    Absmax[block] = Width switch
                    {
                        VectorWidth.Avx512 => Whole512(piece, target),
                        VectorWidth.Avx2 => Whole256(piece, target, codes),
                        _ => WholeScalar(piece, target),
                    };
                }
            }
        }

        private readonly float* Load(long start, int length, float* scratch)
        {
            switch (Type)
            {
                case ElementType.F32:
                    return (float*)Values + start;
                case ElementType.BF16:
                    HalfConversion.BFloat16ToSingle((ushort*)Values + start, scratch, length);
                    return scratch;
                default:
                    HalfConversion.HalfToSingle((ushort*)Values + start, scratch, length);
                    return scratch;
            }
        }

        /// <summary>The short block at the end: divided, not multiplied, and its scale is never zero (see the reference).</summary>
        private readonly void Last(float* values, int length, long block, byte* target)
        {
            float floored = Math.Max(Largest(values, length), Tiny);
            Absmax[block] = floored;
            for (int i = 0; i < length; i += 2)
            {
                int first = Encode(Math.Clamp(values[i] / floored, -1f, 1f));
                int second = Encode(i + 1 < length ? Math.Clamp(values[i + 1] / floored, -1f, 1f) : 0f);
                target[i / 2] = (byte)((first << 4) | second);
            }
        }

        private readonly float WholeScalar(float* values, byte* target)
        {
            float largest = Largest(values, BlockSize);
            float reciprocal = 1f / Math.Max(largest, Tiny);
            for (int i = 0; i < BlockSize; i += 2)
            {
                int first = Encode(Math.Clamp(values[i] * reciprocal, -1f, 1f));
                int second = Encode(Math.Clamp(values[i + 1] * reciprocal, -1f, 1f));
                target[i / 2] = (byte)((first << 4) | second);
            }

            return largest;
        }

        private readonly int Encode(float scaled)
        {
            int rank = 0;
            while (rank < 15 && Borders[rank] < scaled)
            {
                rank++;
            }

            return CodeOfRank[rank];
        }

        private static float Largest(float* values, int length)
        {
            float largest = 0;
            for (int i = 0; i < length; i++)
            {
                // Math.Max passes NaN on.
                largest = Math.Max(largest, Math.Abs(values[i]));
            }

            return largest;
        }

        /// <summary>Counts, in 8 lanes, the 15 borders that lie below a value.</summary>
        private readonly float Whole256(float* values, byte* target, byte* codes)
        {
            Vector256<int> most = Vector256<int>.Zero;
            for (int i = 0; i < BlockSize; i += 8)
            {
                // Bits of non-negative floats are ordered like the floats, and NaN comes out on top.
                most = Vector256.Max(most, Vector256.Load((int*)values + i) & Vector256.Create(0x7FFFFFFF));
            }

            float largest = MaxBits(most);
            Vector256<float> reciprocal = Vector256.Create(1f / Math.Max(largest, Tiny));
            for (int i = 0; i < BlockSize; i += 8)
            {
                Vector256<float> scaled = Vector256.Load(values + i) * reciprocal;
                Vector256<int> below = Vector256<int>.Zero;
                for (int border = 0; border < 15; border++)
                {
                    below += Vector256.LessThan(Vector256.Create(Borders[border]), scaled).AsInt32();
                }

                Vector256<int> rank = -below;
                Vector128<short> words = Vector128.Narrow(rank.GetLower(), rank.GetUpper());
                Vector128.Narrow(words, words).AsByte().GetLower().Store(codes + i);
            }

            for (int i = 0; i < BlockSize; i += 2)
            {
                target[i / 2] = (byte)((CodeOfRank[codes[i]] << 4) | CodeOfRank[codes[i + 1]]);
            }

            return largest;
        }

        private static float MaxBits(Vector256<int> bits)
        {
            Vector128<int> half = Vector128.Max(bits.GetLower(), bits.GetUpper());
            half = Vector128.Max(half, Vector128.Shuffle(half, Vector128.Create(2, 3, 0, 1)));
            half = Vector128.Max(half, Vector128.Shuffle(half, Vector128.Create(1, 0, 3, 2)));
            return BitConverter.Int32BitsToSingle(half.ToScalar());
        }

        /// <summary>A search by halves in the 15 borders, which fit one register.</summary>
        private readonly float Whole512(float* values, byte* target)
        {
            Vector512<int> most = Vector512<int>.Zero;
            for (int i = 0; i < BlockSize; i += 16)
            {
                most = Vector512.Max(most, Vector512.Load((int*)values + i) & Vector512.Create(0x7FFFFFFF));
            }

            float largest = MaxBits(Vector256.Max(most.GetLower(), most.GetUpper()));
            Vector512<float> reciprocal = Vector512.Create(1f / Math.Max(largest, Tiny));
            Vector512<float> borders = Vector512.Load(Borders);
            Vector128<byte> codeOfRank = Vector128.Load(CodeOfRank);
            for (int i = 0; i < BlockSize; i += 32)
            {
                Vector128<byte> first = Ssse3.Shuffle(codeOfRank, Rank(Vector512.Load(values + i) * reciprocal, borders));
                Vector128<byte> second = Ssse3.Shuffle(codeOfRank, Rank(Vector512.Load(values + i + 16) * reciprocal, borders));

                // 16 · (even code) + (odd code) in each 16-bit lane, then the low bytes of both.
                Vector128<sbyte> weights = Vector128.Create((short)0x0110).AsSByte();
                Vector128<short> low = Ssse3.MultiplyAddAdjacent(first, weights);
                Vector128<short> high = Ssse3.MultiplyAddAdjacent(second, weights);
                Vector128.Narrow(low.AsUInt16(), high.AsUInt16()).Store(target + (i / 2));
            }

            return largest;
        }

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        private static Vector128<byte> Rank(Vector512<float> scaled, Vector512<float> borders)
        {
            Vector512<int> rank = Step(Vector512<int>.Zero, 8, scaled, borders);
            rank = Step(rank, 4, scaled, borders);
            rank = Step(rank, 2, scaled, borders);
            rank = Step(rank, 1, scaled, borders);
            return Avx512F.ConvertToVector128Byte(rank);
        }

        /// <summary>Goes up by <paramref name="size"/> where the border at the end of that step is still below the value.</summary>
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        private static Vector512<int> Step(Vector512<int> rank, int size, Vector512<float> scaled, Vector512<float> borders)
        {
            Vector512<float> border = Avx512F.PermuteVar16x32(borders, rank + Vector512.Create(size - 1));
            return rank + (Vector512.LessThan(border, scaled).AsInt32() & Vector512.Create(size));
        }
    }
}
