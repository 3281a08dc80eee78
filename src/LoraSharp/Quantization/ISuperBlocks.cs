using System.Runtime.Intrinsics;

namespace LoraSharp.Quantization;

/// <summary>
/// How a super-block of 256 weights, whose groups have scales that are quantised themselves, lies in memory. Weights are
/// rounded as <see cref="Formats.Gguf.GgufDequantizer"/> rounds them (no fused multiply-add), so that they are equal to
/// its own bit for bit.
/// </summary>
internal unsafe interface ISuperBlocks
{
    /// <summary>Bytes of a block.</summary>
    static abstract int Bytes { get; }

    /// <summary>Decodes the scales, and minima where there are any, of a block's groups.</summary>
    /// <param name="block">The block.</param>
    /// <param name="scales">Room for <see cref="SuperBlock.Scales"/>.</param>
    static abstract void Scales(byte* block, float* scales);

    /// <summary>Weights 64·quarter and the 63 after it, 16 a vector.</summary>
    static abstract void Load(byte* block, int quarter, float* scales, out Vector512<float> a, out Vector512<float> b, out Vector512<float> c, out Vector512<float> d);

    /// <summary>Weights 32·eighth and the 31 after it, 8 a vector.</summary>
    static abstract void Load(byte* block, int eighth, float* scales, out Vector256<float> a, out Vector256<float> b, out Vector256<float> c, out Vector256<float> d);
}

/// <summary>Sizes that all super-blocks share.</summary>
internal static class SuperBlock
{
    /// <summary>Weights.</summary>
    public const int Size = 256;

    /// <summary>Numbers that <see cref="ISuperBlocks.Scales"/> writes: sixteen scales, or eight scales and eight minima.</summary>
    public const int Scales = 16;
}
