using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace LoraSharp.Quantization;

/// <summary>GGUF's Q4_K: eight groups of 32, w = (d·scale)·code − (dmin·minimum); two groups lie in the halves of 32 bytes.</summary>
internal readonly unsafe struct Q4KBlocks : ISuperBlocks
{
    private const int Codes = 16;

    public static int Bytes => 144;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Scales(byte* block, float* scales) => SixBitScales.Decode(block, scales);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Load(byte* block, int quarter, float* scales, out Vector512<float> a, out Vector512<float> b, out Vector512<float> c, out Vector512<float> d)
    {
        // All sixteen weights that a group can have; the permutation looks at the lower four bits of its indices only.
        Vector512<float> codes = Vector512.Create(0f, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        Vector512<float> even = (codes * Vector512.Create(scales[2 * quarter])) - Vector512.Create(scales[8 + (2 * quarter)]);
        Vector512<float> odd = (codes * Vector512.Create(scales[(2 * quarter) + 1])) - Vector512.Create(scales[9 + (2 * quarter)]);
        Vector512<int> first = Avx512F.ConvertToVector512Int32(Vector128.Load(block + Codes + (32 * quarter)));
        Vector512<int> second = Avx512F.ConvertToVector512Int32(Vector128.Load(block + Codes + (32 * quarter) + 16));
        a = Avx512F.PermuteVar16x32(even, first);
        b = Avx512F.PermuteVar16x32(even, second);
        c = Avx512F.PermuteVar16x32(odd, first >> 4);
        d = Avx512F.PermuteVar16x32(odd, second >> 4);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Load(byte* block, int eighth, float* scales, out Vector256<float> a, out Vector256<float> b, out Vector256<float> c, out Vector256<float> d)
    {
        byte* codes = block + Codes + (eighth / 2 * 32);
        int shift = (eighth & 1) * 4;
        Vector256<float> scale = Vector256.Create(scales[eighth]);
        Vector256<float> minimum = Vector256.Create(scales[8 + eighth]);
        a = Weights(codes, shift, scale, minimum);
        b = Weights(codes + 8, shift, scale, minimum);
        c = Weights(codes + 16, shift, scale, minimum);
        d = Weights(codes + 24, shift, scale, minimum);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> Weights(byte* codes, int shift, Vector256<float> scale, Vector256<float> minimum) =>
        (Avx.ConvertToVector256Single((Avx2.ConvertToVector256Int32(codes) >>> shift) & Vector256.Create(15)) * scale) - minimum;
}

/// <summary>GGUF's Q5_K: as <see cref="Q4KBlocks"/>, with 32 bytes of fifth bits, of which bit g belongs to group g.</summary>
internal readonly unsafe struct Q5KBlocks : ISuperBlocks
{
    private const int Fifth = 16;
    private const int Codes = 48;

    public static int Bytes => 176;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Scales(byte* block, float* scales) => SixBitScales.Decode(block, scales);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Load(byte* block, int quarter, float* scales, out Vector512<float> a, out Vector512<float> b, out Vector512<float> c, out Vector512<float> d)
    {
        Vector512<int> first = Avx512F.ConvertToVector512Int32(Vector128.Load(block + Codes + (32 * quarter)));
        Vector512<int> second = Avx512F.ConvertToVector512Int32(Vector128.Load(block + Codes + (32 * quarter) + 16));

        // The fifth bit of the even group comes to lie above its four.
        Vector512<int> high = (Avx512F.ConvertToVector512Int32(Vector128.Load(block + Fifth)) << 4) >>> (2 * quarter);
        Vector512<int> higher = (Avx512F.ConvertToVector512Int32(Vector128.Load(block + Fifth + 16)) << 4) >>> (2 * quarter);
        Tables(scales[2 * quarter], scales[8 + (2 * quarter)], out Vector512<float> lower, out Vector512<float> upper);
        a = Pick(lower, upper, first, high);
        b = Pick(lower, upper, second, higher);
        Tables(scales[(2 * quarter) + 1], scales[9 + (2 * quarter)], out lower, out upper);
        c = Pick(lower, upper, first >> 4, high >>> 1);
        d = Pick(lower, upper, second >> 4, higher >>> 1);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Load(byte* block, int eighth, float* scales, out Vector256<float> a, out Vector256<float> b, out Vector256<float> c, out Vector256<float> d)
    {
        byte* codes = block + Codes + (eighth / 2 * 32);
        byte* fifth = block + Fifth;
        int shift = (eighth & 1) * 4;
        Vector256<float> scale = Vector256.Create(scales[eighth]);
        Vector256<float> minimum = Vector256.Create(scales[8 + eighth]);
        a = Weights(codes, fifth, shift, eighth, scale, minimum);
        b = Weights(codes + 8, fifth + 8, shift, eighth, scale, minimum);
        c = Weights(codes + 16, fifth + 16, shift, eighth, scale, minimum);
        d = Weights(codes + 24, fifth + 24, shift, eighth, scale, minimum);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Tables(float scale, float minimum, out Vector512<float> lower, out Vector512<float> upper)
    {
        Vector512<float> codes = Vector512.Create(0f, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        lower = (codes * Vector512.Create(scale)) - Vector512.Create(minimum);
        upper = ((codes + Vector512.Create(16f)) * Vector512.Create(scale)) - Vector512.Create(minimum);
    }

    // The permutation looks at five bits of its indices.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> Pick(Vector512<float> lower, Vector512<float> upper, Vector512<int> four, Vector512<int> fifth) =>
        Avx512F.PermuteVar16x32x2(lower, Vector512.ConditionalSelect(Vector512.Create(16), fifth, four), upper);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> Weights(byte* codes, byte* fifth, int shift, int bit, Vector256<float> scale, Vector256<float> minimum)
    {
        Vector256<int> four = (Avx2.ConvertToVector256Int32(codes) >>> shift) & Vector256.Create(15);
        Vector256<int> high = ((Avx2.ConvertToVector256Int32(fifth) >>> bit) & Vector256<int>.One) << 4;
        return (Avx.ConvertToVector256Single(four | high) * scale) - minimum;
    }
}

/// <summary>GGUF's Q6_K: sixteen groups of 16, w = (d·scale)·(code − 32); four low bits and two high ones lie apart.</summary>
internal readonly unsafe struct Q6KBlocks : ISuperBlocks
{
    private const int High = 128;
    private const int GroupScales = 192;
    private const int Scale = 208;

    public static int Bytes => 210;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Scales(byte* block, float* scales)
    {
        Vector256<float> d = Vector256.Create((float)BitConverter.UInt16BitsToHalf(*(ushort*)(block + Scale)));
        (d * Avx.ConvertToVector256Single(Avx2.ConvertToVector256Int32((sbyte*)block + GroupScales))).Store(scales);
        (d * Avx.ConvertToVector256Single(Avx2.ConvertToVector256Int32((sbyte*)block + GroupScales + 8))).Store(scales + 8);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Load(byte* block, int quarter, float* scales, out Vector512<float> a, out Vector512<float> b, out Vector512<float> c, out Vector512<float> d)
    {
        // The quarters of a half share their bytes: the lower four bits belong to the even one.
        byte* low = block + (quarter / 2 * 64);
        Vector256<ushort> first = Vector256.Load(low).AsUInt16();
        Vector256<ushort> second = Vector256.Load(low + 32).AsUInt16();
        Vector256<ushort> high = Vector256.Load(block + High + (quarter / 2 * 32)).AsUInt16();
        bool odd = (quarter & 1) != 0;
        Codes(odd ? first >>> 4 : first, odd ? high : high << 4, scales + (4 * quarter), out a, out b);
        Codes(odd ? second >>> 4 : second, odd ? high >>> 2 : high << 2, scales + (4 * quarter) + 2, out c, out d);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Load(byte* block, int eighth, float* scales, out Vector256<float> a, out Vector256<float> b, out Vector256<float> c, out Vector256<float> d)
    {
        int within = eighth & 3;
        byte* low = block + (eighth / 4 * 64) + ((within & 1) * 32);
        byte* high = block + High + (eighth / 4 * 32);
        Vector256<float> first = Vector256.Create(scales[2 * eighth]);
        Vector256<float> second = Vector256.Create(scales[(2 * eighth) + 1]);
        a = Weights(low, high, within, first);
        b = Weights(low + 8, high + 8, within, first);
        c = Weights(low + 16, high + 16, within, second);
        d = Weights(low + 24, high + 24, within, second);
    }

    // Shifts of pairs of bytes: what comes over from the neighbour is masked away.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Codes(Vector256<ushort> four, Vector256<ushort> two, float* scales, out Vector512<float> a, out Vector512<float> b)
    {
        Vector256<byte> codes = (four.AsByte() & Vector256.Create((byte)15)) | (two.AsByte() & Vector256.Create((byte)0x30));
        Vector256<sbyte> signed = codes.AsSByte() - Vector256.Create((sbyte)32);
        a = Avx512F.ConvertToVector512Single(Avx512F.ConvertToVector512Int32(signed.GetLower())) * Vector512.Create(scales[0]);
        b = Avx512F.ConvertToVector512Single(Avx512F.ConvertToVector512Int32(signed.GetUpper())) * Vector512.Create(scales[1]);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> Weights(byte* low, byte* high, int within, Vector256<float> scale)
    {
        Vector256<int> four = (Avx2.ConvertToVector256Int32(low) >>> (within / 2 * 4)) & Vector256.Create(15);
        Vector256<int> two = ((Avx2.ConvertToVector256Int32(high) >>> (within * 2)) & Vector256.Create(3)) << 4;
        return Avx.ConvertToVector256Single((four | two) - Vector256.Create(32)) * scale;
    }
}

/// <summary>The head of Q4_K and Q5_K: d and dmin in half precision, then eight scales and eight minima of six bits in 12 bytes.</summary>
internal static unsafe class SixBitScales
{
    /// <summary>Eight d·scale, then eight dmin·minimum.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Decode(byte* block, float* scales)
    {
        uint first = *(uint*)(block + 4);
        uint second = *(uint*)(block + 8);
        uint shared = *(uint*)(block + 12);

        // Groups 0 to 3 stand whole; of groups 4 to 7 the upper two bits fill what those leave free.
        ulong scale = (first & 0x3F3F3F3F) | ((ulong)((shared & 0x0F0F0F0F) | ((first >> 2) & 0x30303030)) << 32);
        ulong minimum = (second & 0x3F3F3F3F) | ((ulong)(((shared >> 4) & 0x0F0F0F0F) | ((second >> 2) & 0x30303030)) << 32);
        Write(scale, *(ushort*)block, scales);
        Write(minimum, *(ushort*)(block + 2), scales + 8);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Write(ulong six, ushort factor, float* scales) =>
        (Avx.ConvertToVector256Single(Avx2.ConvertToVector256Int32(Vector128.CreateScalar(six).AsByte())) * Vector256.Create((float)BitConverter.UInt16BitsToHalf(factor))).Store(scales);
}
