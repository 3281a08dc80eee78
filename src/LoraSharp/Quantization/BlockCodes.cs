using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace LoraSharp.Quantization;

/// <summary>
/// How the codes of 32 weights lie in memory; a weight is its code, a small integer, times the block's scale, in some
/// types plus the block's minimum.
/// </summary>
internal unsafe interface IBlockCodes
{
    /// <summary>Bytes of 32 codes.</summary>
    static abstract int Bytes { get; }

    /// <summary>Whether blocks have a minimum.</summary>
    static abstract bool HasMinimum { get; }

    /// <summary>Codes 0 to 15 and 16 to 31.</summary>
    static abstract void Load(byte* codes, out Vector512<float> first, out Vector512<float> second);

    /// <summary>Codes 0 to 7, 8 to 15, 16 to 23, 24 to 31.</summary>
    static abstract void Load(byte* codes, out Vector256<float> a, out Vector256<float> b, out Vector256<float> c, out Vector256<float> d);

    /// <summary>Code i.</summary>
    static abstract int Get(byte* codes, int i);
}

/// <summary>GGUF's Q8_0: signed bytes.</summary>
internal readonly unsafe struct ByteCodes : IBlockCodes
{
    public static int Bytes => 32;

    public static bool HasMinimum => false;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Load(byte* codes, out Vector512<float> first, out Vector512<float> second)
    {
        first = Avx512F.ConvertToVector512Single(Avx512F.ConvertToVector512Int32(Vector128.Load((sbyte*)codes)));
        second = Avx512F.ConvertToVector512Single(Avx512F.ConvertToVector512Int32(Vector128.Load((sbyte*)codes + 16)));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Load(byte* codes, out Vector256<float> a, out Vector256<float> b, out Vector256<float> c, out Vector256<float> d)
    {
        a = Avx.ConvertToVector256Single(Avx2.ConvertToVector256Int32((sbyte*)codes));
        b = Avx.ConvertToVector256Single(Avx2.ConvertToVector256Int32((sbyte*)codes + 8));
        c = Avx.ConvertToVector256Single(Avx2.ConvertToVector256Int32((sbyte*)codes + 16));
        d = Avx.ConvertToVector256Single(Avx2.ConvertToVector256Int32((sbyte*)codes + 24));
    }

    public static int Get(byte* codes, int i) => (sbyte)codes[i];
}

/// <summary>GGUF's Q4_0: code plus 8 in four bits, codes 0 to 15 in the lower halves of 16 bytes, 16 to 31 in the upper ones.</summary>
internal readonly unsafe struct NibbleCodes : IBlockCodes
{
    public static int Bytes => 16;

    public static bool HasMinimum => false;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Load(byte* codes, out Vector512<float> first, out Vector512<float> second)
    {
        // The permutation looks at the lower four bits of its indices only: no mask, no conversion.
        Vector512<float> values = Vector512.Create(-8f, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
        Vector512<int> bytes = Avx512F.ConvertToVector512Int32(Vector128.Load(codes));
        first = Avx512F.PermuteVar16x32(values, bytes);
        second = Avx512F.PermuteVar16x32(values, bytes >> 4);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Load(byte* codes, out Vector256<float> a, out Vector256<float> b, out Vector256<float> c, out Vector256<float> d)
    {
        Vector256<int> low = Avx2.ConvertToVector256Int32(codes);
        Vector256<int> high = Avx2.ConvertToVector256Int32(codes + 8);
        Vector256<int> mask = Vector256.Create(15);
        Vector256<int> eight = Vector256.Create(8);
        a = Avx.ConvertToVector256Single((low & mask) - eight);
        b = Avx.ConvertToVector256Single((high & mask) - eight);
        c = Avx.ConvertToVector256Single((low >>> 4) - eight);
        d = Avx.ConvertToVector256Single((high >>> 4) - eight);
    }

    public static int Get(byte* codes, int i) => (i < 16 ? codes[i] & 15 : codes[i - 16] >> 4) - 8;
}

/// <summary>GGUF's Q4_1: the same nibbles as they are, with a minimum.</summary>
internal readonly unsafe struct UnsignedNibbleCodes : IBlockCodes
{
    public static int Bytes => 16;

    public static bool HasMinimum => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Load(byte* codes, out Vector512<float> first, out Vector512<float> second)
    {
        Vector512<float> values = Vector512.Create(0f, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        Vector512<int> bytes = Avx512F.ConvertToVector512Int32(Vector128.Load(codes));
        first = Avx512F.PermuteVar16x32(values, bytes);
        second = Avx512F.PermuteVar16x32(values, bytes >> 4);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Load(byte* codes, out Vector256<float> a, out Vector256<float> b, out Vector256<float> c, out Vector256<float> d)
    {
        Vector256<int> low = Avx2.ConvertToVector256Int32(codes);
        Vector256<int> high = Avx2.ConvertToVector256Int32(codes + 8);
        Vector256<int> mask = Vector256.Create(15);
        a = Avx.ConvertToVector256Single(low & mask);
        b = Avx.ConvertToVector256Single(high & mask);
        c = Avx.ConvertToVector256Single(low >>> 4);
        d = Avx.ConvertToVector256Single(high >>> 4);
    }

    public static int Get(byte* codes, int i) => i < 16 ? codes[i] & 15 : codes[i - 16] >> 4;
}

/// <summary>GGUF's Q5_0: code plus 16 in five bits, the fifth ones first, a bit a weight, then nibbles as in Q4_0.</summary>
internal readonly unsafe struct FiveBitCodes : IBlockCodes
{
    public static int Bytes => 20;

    public static bool HasMinimum => false;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Load(byte* codes, out Vector512<float> first, out Vector512<float> second)
    {
        UnsignedFiveBitCodes.Load(codes, out first, out second);
        first -= Vector512.Create(16f);
        second -= Vector512.Create(16f);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Load(byte* codes, out Vector256<float> a, out Vector256<float> b, out Vector256<float> c, out Vector256<float> d)
    {
        UnsignedFiveBitCodes.Load(codes, out a, out b, out c, out d);
        Vector256<float> half = Vector256.Create(16f);
        a -= half;
        b -= half;
        c -= half;
        d -= half;
    }

    public static int Get(byte* codes, int i) => UnsignedFiveBitCodes.Get(codes, i) - 16;
}

/// <summary>GGUF's Q5_1: the same five bits as they are, with a minimum.</summary>
internal readonly unsafe struct UnsignedFiveBitCodes : IBlockCodes
{
    public static int Bytes => 20;

    public static bool HasMinimum => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Load(byte* codes, out Vector512<float> first, out Vector512<float> second)
    {
        Vector512<uint> lanes = Vector512.Create(0u, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        Vector512<int> four = Vector512.Create(15);
        Vector512<int> sixteen = Vector512.Create(16);
        Vector512<int> bytes = Avx512F.ConvertToVector512Int32(Vector128.Load(codes + sizeof(uint)));
        Vector512<int> fifth = Avx512F.ShiftRightLogicalVariable(Vector512.Create(*(uint*)codes), lanes).AsInt32();
        first = Avx512F.ConvertToVector512Single((bytes & four) | ((fifth << 4) & sixteen));
        second = Avx512F.ConvertToVector512Single((bytes >>> 4) | ((fifth >>> 12) & sixteen));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Load(byte* codes, out Vector256<float> a, out Vector256<float> b, out Vector256<float> c, out Vector256<float> d)
    {
        Vector256<int> low = Avx2.ConvertToVector256Int32(codes + sizeof(uint));
        Vector256<int> high = Avx2.ConvertToVector256Int32(codes + sizeof(uint) + 8);
        Vector256<int> four = Vector256.Create(15);
        Vector256<int> sixteen = Vector256.Create(16);
        Vector256<int> fifth = Avx2.ShiftRightLogicalVariable(Vector256.Create(*(uint*)codes), Vector256.Create(0u, 1, 2, 3, 4, 5, 6, 7)).AsInt32();
        a = Avx.ConvertToVector256Single((low & four) | ((fifth << 4) & sixteen));
        b = Avx.ConvertToVector256Single((high & four) | ((fifth >>> 4) & sixteen));
        c = Avx.ConvertToVector256Single((low >>> 4) | ((fifth >>> 12) & sixteen));
        d = Avx.ConvertToVector256Single((high >>> 4) | ((fifth >>> 20) & sixteen));
    }

    public static int Get(byte* codes, int i) => (((*(int*)codes >> i) & 1) << 4) | UnsignedNibbleCodes.Get(codes + sizeof(uint), i);
}
