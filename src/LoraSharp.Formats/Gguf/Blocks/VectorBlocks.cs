using System.Buffers.Binary;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace LoraSharp.Formats.Gguf.Blocks;

/// <summary>
/// The decoders of the types met most, vectorised with AVX-512 or AVX2. Products and sums are kept apart as in the
/// plain ones (no fused multiply-add), so that the results are equal bit for bit.
/// </summary>
internal static class VectorBlocks
{
    public static bool IsSupported => Avx2.IsSupported;

    /// <summary>The decoder of a type for many blocks at once; null where only the plain one exists.</summary>
    public static RowDecoder? For(GgufTensorType type) => type switch
    {
        GgufTensorType.F32 => F32,
        GgufTensorType.F16 => F16,
        GgufTensorType.BF16 => BF16,
        _ => IsSupported ? ForBlocks(type) : null,
    };

    private static RowDecoder? ForBlocks(GgufTensorType type) => type switch
    {
        GgufTensorType.Q4_0 => Q4_0,
        GgufTensorType.Q4_1 => Q4_1,
        GgufTensorType.Q5_0 => Q5_0,
        GgufTensorType.Q5_1 => Q5_1,
        GgufTensorType.Q8_0 => Q8_0,
        GgufTensorType.Q4_K => Q4_K,
        GgufTensorType.Q5_K => Q5_K,
        GgufTensorType.Q6_K => Q6_K,
        _ => null,
    };

    private static void F32(ReadOnlySpan<byte> source, Span<float> output) => source.CopyTo(MemoryMarshal.AsBytes(output));

    private static void F16(ReadOnlySpan<byte> source, Span<float> output)
    {
        ReadOnlySpan<Half> halves = MemoryMarshal.Cast<byte, Half>(source);
        for (int i = 0; i < halves.Length; i++)
        {
            output[i] = (float)halves[i];
        }
    }

    private static void BF16(ReadOnlySpan<byte> source, Span<float> output)
    {
        ReadOnlySpan<ushort> bits = MemoryMarshal.Cast<byte, ushort>(source);
        int i = 0;
        for (; i + Vector256<ushort>.Count <= bits.Length; i += Vector256<ushort>.Count)
        {
            (Vector256<uint> low, Vector256<uint> high) = Vector256.Widen(Vector256.Create(bits[i..]));
            (low << 16).AsSingle().CopyTo(output[i..]);
            (high << 16).AsSingle().CopyTo(output[(i + 8)..]);
        }

        for (; i < bits.Length; i++)
        {
            output[i] = BitConverter.UInt32BitsToSingle((uint)bits[i] << 16);
        }
    }

    private static void Q4_0(ReadOnlySpan<byte> source, Span<float> output)
    {
        for (; source.Length >= 18; source = source[18..], output = output[32..])
        {
            Vector128<float> d = Vector128.Create(LegacyBlocks.Scale(source));
            Vector128<byte> codes = Vector128.Create(source.Slice(2, 16));
            Vector128<sbyte> eight = Vector128.Create((sbyte)8);
            Scaled((codes & Vector128.Create((byte)15)).AsSByte() - eight, d, output);
            Scaled((codes >>> 4).AsSByte() - eight, d, output[16..]);
        }
    }

    private static void Q4_1(ReadOnlySpan<byte> source, Span<float> output)
    {
        for (; source.Length >= 20; source = source[20..], output = output[32..])
        {
            Vector128<float> d = Vector128.Create(LegacyBlocks.Scale(source));
            Vector128<float> m = Vector128.Create(LegacyBlocks.Scale(source[2..]));
            Vector128<byte> codes = Vector128.Create(source.Slice(4, 16));
            Scaled((codes & Vector128.Create((byte)15)).AsSByte(), d, m, output);
            Scaled((codes >>> 4).AsSByte(), d, m, output[16..]);
        }
    }

    private static void Q5_0(ReadOnlySpan<byte> source, Span<float> output)
    {
        for (; source.Length >= 22; source = source[22..], output = output[32..])
        {
            Vector128<float> d = Vector128.Create(LegacyBlocks.Scale(source));
            uint high = BinaryPrimitives.ReadUInt32LittleEndian(source[2..]);
            Vector128<byte> codes = Vector128.Create(source.Slice(6, 16));
            Vector128<sbyte> offset = Vector128.Create((sbyte)16);
            Scaled(((codes & Vector128.Create((byte)15)) | FifthBits((ushort)high)).AsSByte() - offset, d, output);
            Scaled(((codes >>> 4) | FifthBits((ushort)(high >> 16))).AsSByte() - offset, d, output[16..]);
        }
    }

    private static void Q5_1(ReadOnlySpan<byte> source, Span<float> output)
    {
        for (; source.Length >= 24; source = source[24..], output = output[32..])
        {
            Vector128<float> d = Vector128.Create(LegacyBlocks.Scale(source));
            Vector128<float> m = Vector128.Create(LegacyBlocks.Scale(source[2..]));
            uint high = BinaryPrimitives.ReadUInt32LittleEndian(source[4..]);
            Vector128<byte> codes = Vector128.Create(source.Slice(8, 16));
            Scaled(((codes & Vector128.Create((byte)15)) | FifthBits((ushort)high)).AsSByte(), d, m, output);
            Scaled(((codes >>> 4) | FifthBits((ushort)(high >> 16))).AsSByte(), d, m, output[16..]);
        }
    }

    private static void Q8_0(ReadOnlySpan<byte> source, Span<float> output)
    {
        for (; source.Length >= 34; source = source[34..], output = output[32..])
        {
            Vector128<float> d = Vector128.Create(LegacyBlocks.Scale(source));
            Scaled(Vector128.Create(source.Slice(2, 16)).AsSByte(), d, output);
            Scaled(Vector128.Create(source.Slice(18, 16)).AsSByte(), d, output[16..]);
        }
    }

    private static void Q4_K(ReadOnlySpan<byte> source, Span<float> output)
    {
        for (; source.Length >= 144; source = source[144..])
        {
            float d = LegacyBlocks.Scale(source);
            float dmin = LegacyBlocks.Scale(source[2..]);
            for (int group = 0; group < 8; group++)
            {
                (int scale, int minimum) = KBlocks.ScaleAndMinimum(source.Slice(4, 12), group);
                Vector128<float> dl = Vector128.Create(d * scale);
                Vector128<float> ml = Vector128.Create(-(dmin * minimum));
                ReadOnlySpan<byte> quants = source.Slice(16 + (group / 2 * 32), 32);
                for (int half = 0; half < 32; half += 16)
                {
                    Vector128<byte> codes = Vector128.Create(quants.Slice(half, 16));
                    codes = (group & 1) == 0 ? codes & Vector128.Create((byte)15) : codes >>> 4;
                    Scaled(codes.AsSByte(), dl, ml, output);
                    output = output[16..];
                }
            }
        }
    }

    private static void Q5_K(ReadOnlySpan<byte> source, Span<float> output)
    {
        for (; source.Length >= 176; source = source[176..])
        {
            float d = LegacyBlocks.Scale(source);
            float dmin = LegacyBlocks.Scale(source[2..]);
            for (int group = 0; group < 8; group++)
            {
                (int scale, int minimum) = KBlocks.ScaleAndMinimum(source.Slice(4, 12), group);
                Vector128<float> dl = Vector128.Create(d * scale);
                Vector128<float> ml = Vector128.Create(-(dmin * minimum));
                ReadOnlySpan<byte> quants = source.Slice(48 + (group / 2 * 32), 32);
                for (int half = 0; half < 32; half += 16)
                {
                    Vector128<byte> codes = Vector128.Create(quants.Slice(half, 16));
                    codes = (group & 1) == 0 ? codes & Vector128.Create((byte)15) : codes >>> 4;
                    Vector128<byte> bit = (Vector128.Create(source.Slice(16 + half, 16)) >>> group) & Vector128<byte>.One;
                    Scaled((codes | (bit << 4)).AsSByte(), dl, ml, output);
                    output = output[16..];
                }
            }
        }
    }

    private static void Q6_K(ReadOnlySpan<byte> source, Span<float> output)
    {
        for (; source.Length >= 210; source = source[210..])
        {
            float d = LegacyBlocks.Scale(source[208..]);
            Vector128<sbyte> offset = Vector128.Create((sbyte)32);
            for (int group = 0; group < 16; group++)
            {
                int half = group / 8;
                int within = group % 8 * 16;
                Vector128<byte> low = Vector128.Create(source.Slice((half * 64) + (within % 64), 16));
                low = within < 64 ? low & Vector128.Create((byte)15) : low >>> 4;
                Vector128<byte> top = (Vector128.Create(source.Slice(128 + (half * 32) + (within % 32), 16)) >>> (within / 32 * 2)) & Vector128.Create((byte)3);
                Scaled((low | (top << 4)).AsSByte() - offset, Vector128.Create(d * (sbyte)source[192 + group]), output);
                output = output[16..];
            }
        }
    }

    /// <summary>Byte j is 16 where bit j is set.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<byte> FifthBits(ushort bits)
    {
        Vector128<byte> spread = Vector128.Shuffle(
            Vector128.CreateScalar(bits).AsByte(),
            Vector128.Create((byte)0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1));
        Vector128<byte> mask = Vector128.Create(0x8040201008040201UL).AsByte();
        return Vector128.Equals(spread & mask, mask) & Vector128.Create((byte)16);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Scaled(Vector128<sbyte> q, Vector128<float> d, Span<float> output)
    {
        ref float first = ref MemoryMarshal.GetReference(output[..16]);
        if (Avx512F.IsSupported)
        {
            (Avx512F.ConvertToVector512Single(Avx512F.ConvertToVector512Int32(q)) * Wide(d)).StoreUnsafe(ref first);
            return;
        }

        Vector256<float> scale = Vector256.Create(d, d);
        (Avx.ConvertToVector256Single(Avx2.ConvertToVector256Int32(q)) * scale).StoreUnsafe(ref first);
        (Avx.ConvertToVector256Single(Avx2.ConvertToVector256Int32(Sse2.ShiftRightLogical128BitLane(q, 8))) * scale).StoreUnsafe(ref first, 8);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Scaled(Vector128<sbyte> q, Vector128<float> d, Vector128<float> m, Span<float> output)
    {
        ref float first = ref MemoryMarshal.GetReference(output[..16]);
        if (Avx512F.IsSupported)
        {
            ((Avx512F.ConvertToVector512Single(Avx512F.ConvertToVector512Int32(q)) * Wide(d)) + Wide(m)).StoreUnsafe(ref first);
            return;
        }

        Vector256<float> scale = Vector256.Create(d, d);
        Vector256<float> minimum = Vector256.Create(m, m);
        ((Avx.ConvertToVector256Single(Avx2.ConvertToVector256Int32(q)) * scale) + minimum).StoreUnsafe(ref first);
        ((Avx.ConvertToVector256Single(Avx2.ConvertToVector256Int32(Sse2.ShiftRightLogical128BitLane(q, 8))) * scale) + minimum).StoreUnsafe(ref first, 8);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> Wide(Vector128<float> value) => Vector512.Create(value.ToScalar());
}
