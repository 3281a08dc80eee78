using System.Buffers.Binary;

namespace LoraSharp.Formats.Gguf.Blocks;

/// <summary>
/// Encoders of blocks of 32 weights, equal byte for byte to the <c>gguf</c> Python package: its order of operations, its
/// widths, its rounding.
/// </summary>
internal static class LegacyQuantizers
{
    /// <summary>d = largest magnitude / 127; halves round away from zero.</summary>
    public static void Q8_0(ReadOnlySpan<float> x, Span<byte> block)
    {
        float largest = 0;
        foreach (float value in x)
        {
            largest = MathF.Max(largest, MathF.Abs(value));
        }

        float d = largest / 127;
        float inverse = Inverse(d);
        WriteHalf(block, d);
        for (int j = 0; j < 32; j++)
        {
            block[2 + j] = (byte)(sbyte)MathF.Round(x[j] * inverse, MidpointRounding.AwayFromZero);
        }
    }

    /// <summary>The weight of largest magnitude becomes −8 exactly.</summary>
    public static void Q4_0(ReadOnlySpan<float> x, Span<byte> block)
    {
        float d = Extreme(x) / -8;
        float inverse = Inverse(d);
        WriteHalf(block, d);
        for (int j = 0; j < 16; j++)
        {
            block[2 + j] = (byte)(Signed(x[j], inverse, 8.5f, 15) | (Signed(x[j + 16], inverse, 8.5f, 15) << 4));
        }
    }

    /// <summary>The weight of largest magnitude becomes −16 exactly.</summary>
    public static void Q5_0(ReadOnlySpan<float> x, Span<byte> block)
    {
        float d = Extreme(x) / -16;
        float inverse = Inverse(d);
        WriteHalf(block, d);
        uint high = 0;
        for (int j = 0; j < 16; j++)
        {
            int low = Signed(x[j], inverse, 16.5f, 31);
            int top = Signed(x[j + 16], inverse, 16.5f, 31);
            block[6 + j] = (byte)((low & 15) | ((top & 15) << 4));
            high |= ((uint)low >> 4 << j) | ((uint)top >> 4 << (j + 16));
        }

        BinaryPrimitives.WriteUInt32LittleEndian(block[2..], high);
    }

    /// <summary>Smallest and largest weight become 0 and 15.</summary>
    public static void Q4_1(ReadOnlySpan<float> x, Span<byte> block)
    {
        (float minimum, float d) = Range(x, 15);
        float inverse = Inverse(d);
        WriteHalf(block, d);
        WriteHalf(block[2..], minimum);
        for (int j = 0; j < 16; j++)
        {
            block[4 + j] = (byte)(Unsigned(x[j], minimum, inverse, 15) | (Unsigned(x[j + 16], minimum, inverse, 15) << 4));
        }
    }

    /// <summary>Smallest and largest weight become 0 and 31.</summary>
    public static void Q5_1(ReadOnlySpan<float> x, Span<byte> block)
    {
        (float minimum, float d) = Range(x, 31);
        float inverse = Inverse(d);
        WriteHalf(block, d);
        WriteHalf(block[2..], minimum);
        uint high = 0;
        for (int j = 0; j < 16; j++)
        {
            int low = Unsigned(x[j], minimum, inverse, 31);
            int top = Unsigned(x[j + 16], minimum, inverse, 31);
            block[8 + j] = (byte)((low & 15) | ((top & 15) << 4));
            high |= ((uint)low >> 4 << j) | ((uint)top >> 4 << (j + 16));
        }

        BinaryPrimitives.WriteUInt32LittleEndian(block[4..], high);
    }

    internal static void WriteHalf(Span<byte> bytes, float value) => BinaryPrimitives.WriteHalfLittleEndian(bytes, (Half)value);

    private static float Inverse(float d) => d == 0 ? 0 : 1 / d;

    /// <summary>The first of the weights of largest magnitude, with its sign.</summary>
    private static float Extreme(ReadOnlySpan<float> x)
    {
        float extreme = x[0];
        foreach (float value in x)
        {
            extreme = MathF.Abs(value) > MathF.Abs(extreme) ? value : extreme;
        }

        return extreme;
    }

    private static (float Minimum, float Step) Range(ReadOnlySpan<float> x, int levels)
    {
        float minimum = x[0];
        float maximum = x[0];
        foreach (float value in x)
        {
            minimum = MathF.Min(minimum, value);
            maximum = MathF.Max(maximum, value);
        }

        return (minimum, (maximum - minimum) / levels);
    }

    // Product and sum are each rounded to single precision: a fused multiply-add or double precision decides a few borders otherwise.
    private static int Signed(float x, float inverse, float half, int most) => Math.Clamp((int)((x * inverse) + half), 0, most);

    private static int Unsigned(float x, float minimum, float inverse, int most) => Math.Clamp((int)(((x - minimum) * inverse) + 0.5f), 0, most);
}
