using System.Runtime.Intrinsics.X86;

namespace LoraSharp.Quantization;

/// <summary>Which of a kernel's versions runs. Tests force each; callers take <see cref="VectorWidths.Best"/>.</summary>
public enum VectorWidth
{
    /// <summary>Portable code.</summary>
    Scalar,

    /// <summary>256-bit vectors: AVX2 and FMA.</summary>
    Avx2,

    /// <summary>512-bit vectors: AVX-512 F, BW and VL.</summary>
    Avx512,
}

/// <summary>What this processor offers.</summary>
public static class VectorWidths
{
    /// <summary>The widest that runs here.</summary>
    public static VectorWidth Best =>
        Avx512BW.VL.IsSupported && Avx512F.VL.IsSupported ? VectorWidth.Avx512
        : Avx2.IsSupported && Fma.IsSupported ? VectorWidth.Avx2
        : VectorWidth.Scalar;
}
