using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using LoraSharp.Formats;

namespace LoraSharp.Quantization;

/// <summary>
/// The 16 values a block can have: codebook · scale, rounded to the type the tensor had before it was quantised.
/// bitsandbytes dequantises to that type (<c>quant_state.dtype</c>) and only then converts to the compute type, so a
/// bfloat16 model computed in float32 has bfloat16 weights.
/// </summary>
internal static unsafe class BlockTable
{
    // Below the smallest normal half, halves are 2⁻²⁴ apart: just the spacing of floats between 0.5 and 1.
    private const float SmallestNormalHalf = 6.103515625e-5f;
    private const float HalfSpacing = 0.75f;

    /// <summary>Computes the table. Inlined: a call in the kernels' loops would spill every register of theirs.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Make(Vector512<float> codebook, float scale, ElementType rounding)
    {
        Vector512<float> values = codebook * Vector512.Create(scale);
        return rounding == ElementType.F32 ? values : Round(values, rounding);
    }

    /// <summary>Computes the table as bfloat16, twice in a row.</summary>
    public static Vector512<ushort> MakeBFloat16(Vector512<float> codebook, float scale, ElementType rounding)
    {
        // Rounding to bfloat16 twice changes nothing.
        Vector512<uint> bits = Make(codebook, scale, rounding == ElementType.BF16 ? ElementType.F32 : rounding).AsUInt32();
        bits = (bits + Vector512.Create(0x7FFFu) + ((bits >> 16) & Vector512<uint>.One)) >> 16;
        Vector256<ushort> half = Avx512F.ConvertToVector256UInt16(bits);
        return Vector512.Create(half, half);
    }

    /// <summary>Computes half of the table.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Make(Vector256<float> codebook, float scale, ElementType rounding)
    {
        Vector256<float> values = codebook * Vector256.Create(scale);
        return rounding == ElementType.F32 ? values : Round(values, rounding);
    }

    /// <summary>Computes the table into memory.</summary>
    public static void Make(float* codebook, float scale, ElementType rounding, float* table)
    {
        Make(Vector256.Load(codebook), scale, rounding).Store(table);
        Make(Vector256.Load(codebook + 8), scale, rounding).Store(table + 8);
    }

    /// <summary>The same as 16-bit values, twice in a row; <paramref name="target"/> is BF16 or F16.</summary>
    public static void Make(float* codebook, float scale, ElementType rounding, ElementType target, ushort* table)
    {
        float* values = stackalloc float[16];
        Make(codebook, scale, rounding, values);
        if (target == ElementType.BF16)
        {
            Vector128<ushort> low = BFloat16(Vector256.Load(values));
            Vector128<ushort> high = BFloat16(Vector256.Load(values + 8));
            low.Store(table);
            high.Store(table + 8);
            low.Store(table + 16);
            high.Store(table + 24);
            return;
        }

        for (int i = 0; i < 16; i++)
        {
            table[i] = table[i + 16] = HalfConversion.ToHalf(values[i]);
        }
    }

    private static Vector128<ushort> BFloat16(Vector256<float> values)
    {
        Vector256<uint> bits = RoundToBFloat16(values.AsUInt32()) >> 16;
        return Vector128.Narrow(bits.GetLower(), bits.GetUpper());
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> Round(Vector512<float> values, ElementType rounding)
    {
        if (rounding == ElementType.BF16)
        {
            Vector512<uint> bits = values.AsUInt32();
            return ((bits + Vector512.Create(0x7FFFu) + ((bits >> 16) & Vector512<uint>.One)) & Vector512.Create(0xFFFF0000)).AsSingle();
        }

        return Vector512.Create(Round(values.GetLower(), rounding), Round(values.GetUpper(), rounding));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> Round(Vector256<float> values, ElementType rounding)
    {
        if (rounding == ElementType.BF16)
        {
            return (RoundToBFloat16(values.AsUInt32()) & Vector256.Create(0xFFFF0000)).AsSingle();
        }

        Vector256<uint> bits = values.AsUInt32();
        Vector256<float> normal = ((bits + Vector256.Create(0xFFFu) + ((bits >> 13) & Vector256<uint>.One)) & Vector256.Create(0xFFFFE000)).AsSingle();
        Vector256<float> spacing = Vector256.Create(HalfSpacing);
        Vector256<float> tiny = (values + spacing) - spacing;
        return Vector256.ConditionalSelect(Vector256.LessThan(Vector256.Abs(values), Vector256.Create(SmallestNormalHalf)), tiny, normal);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<uint> RoundToBFloat16(Vector256<uint> bits) => bits + Vector256.Create(0x7FFFu) + ((bits >> 16) & Vector256<uint>.One);
}
