using System.Collections.Immutable;

namespace LoraSharp.Quantization;

/// <summary>The two 4-bit data types of QLoRA.</summary>
public enum FourBitType
{
    /// <summary>NormalFloat: quantiles of the normal distribution (Dettmers et al. 2023, "QLoRA", section 3).</summary>
    Nf4,

    /// <summary>A float with 1 sign, 2 exponent and 1 mantissa bit.</summary>
    Fp4,
}

/// <summary>
/// The 16 values of a 4-bit type and the borders between them, in the numbers that bitsandbytes uses, so that codes
/// come out the same bit for bit.
/// </summary>
public sealed class FourBitCodebook
{
    /// <summary>Smallest and largest block size that bitsandbytes takes; every power of two between them is allowed.</summary>
    public const int SmallestBlock = 32;

    /// <inheritdoc cref="SmallestBlock"/>
    public const int LargestBlock = 4096;

    private FourBitCodebook(FourBitType type, string name, ImmutableArray<float> values)
    {
        Type = type;
        Name = name;
        Values = values;

        // Ranks: the codes in the order of their values. Of FP4's two zeros the reference only ever chooses code 0.
        byte[] codes = [.. Enumerable.Range(0, 16).OrderBy(c => values[c]).Select(c => (byte)c)];
        CodeOfRank = [.. codes.Select(c => values[c] == 0 ? (byte)values.IndexOf(0f) : c)];
        float[] borders = new float[16];
        for (int i = 0; i < 15; i++)
        {
            borders[i] = Border(values[codes[i]], values[codes[i + 1]], CodeOfRank[i] <= CodeOfRank[i + 1]);
        }

        borders[15] = float.PositiveInfinity;
        Borders = [.. borders];
    }

    /// <summary>NF4.</summary>
    public static FourBitCodebook Nf4 { get; } = new(FourBitType.Nf4, "nf4",
    [
        -1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f,
        -0.28444138169288635f, -0.18477343022823334f, -0.09105003625154495f, 0.0f,
        0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
        0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f,
    ]);

    /// <summary>FP4: in the order of the bit patterns, 0, 0.0625, 8, 12, 4, 6, 2, 3 and their negatives, over 12.</summary>
    public static FourBitCodebook Fp4 { get; } = new(FourBitType.Fp4, "fp4",
        [.. new[] { 0f, 0.0625f, 8f, 12f, 4f, 6f, 2f, 3f, 0f, -0.0625f, -8f, -12f, -4f, -6f, -2f, -3f }.Select(v => v / 12f)]);

    /// <summary>Which type this is.</summary>
    public FourBitType Type { get; }

    /// <summary>Its name in configurations: <c>nf4</c> or <c>fp4</c>.</summary>
    public string Name { get; }

    /// <summary>Value of each code, 16 of them, in [-1, 1].</summary>
    public ImmutableArray<float> Values { get; }

    /// <summary>
    /// The largest number that still belongs to the lower of two neighbouring values, ascending; the 16th is infinite. A
    /// scaled weight has the rank "how many borders are below it".
    /// </summary>
    public ImmutableArray<float> Borders { get; }

    /// <summary>The code of each rank; the identity for NF4.</summary>
    public ImmutableArray<byte> CodeOfRank { get; }

    /// <summary>The codebook of a type.</summary>
    public static FourBitCodebook Of(FourBitType type) => type == FourBitType.Nf4 ? Nf4 : Fp4;

    /// <summary>True for 32, 64, 128 … 4096.</summary>
    public static bool IsBlockSize(long size) => size is >= SmallestBlock and <= LargestBlock && long.IsPow2(size);

    /// <summary>
    /// bitsandbytes takes the code with the smallest |x − value| in single precision, the first one of equals. Where that
    /// changes from one value to the next lies within a few units of the last place around their middle.
    /// </summary>
    private static float Border(float lower, float upper, bool isLowerFirst)
    {
        float border = (lower + upper) / 2;
        for (int i = 0; i < 8; i++)
        {
            border = MathF.BitIncrement(border);
        }

        while (!IsLower(border))
        {
            border = MathF.BitDecrement(border);
        }

        return border;

        bool IsLower(float x)
        {
            (float toLower, float toUpper) = (MathF.Abs(x - lower), MathF.Abs(x - upper));
            return toLower < toUpper || (toLower == toUpper && isLowerFirst);
        }
    }
}
