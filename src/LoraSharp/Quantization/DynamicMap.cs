using System.Collections.Immutable;

namespace LoraSharp.Quantization;

/// <summary>
/// The 256 values of the 8-bit dynamic type: an exponent of variable length and a linear fraction in the bits that
/// remain (Dettmers 2015, "8-Bit Approximations for Parallelism in Deep Learning"; Dettmers et al. 2022, "8-bit
/// Optimizers via Block-wise Quantization"). Used for the statistics in double quantisation and for optimizer states.
/// </summary>
public sealed class DynamicMap
{
    private const int Bins = 65536;
    private readonly float[] _values;
    private readonly float[] _borders = new float[256];
    private readonly byte[] _codeOfBin;
    private readonly byte[] _firstCode = new byte[Bins];

    private DynamicMap(float[] values)
    {
        _values = values;
        Values = [.. values];
        _codeOfBin = MakeBins(values);
        for (int i = 0; i < 255; i++)
        {
            _borders[i] = 0.5f * (values[i] + values[i + 1]);
        }

        _borders[255] = float.PositiveInfinity;
        for (int i = 0; i < Bins; i++)
        {
            // Of all floats with these 16 upper bits the one nearest to minus infinity.
            uint bits = (uint)i << 16;
            float least = BitConverter.UInt32BitsToSingle((bits & 0x80000000) != 0 ? bits | 0xFFFF : bits);
            int code = 0;
            while (code < 255 && _borders[code] < least)
            {
                code++;
            }

            _firstCode[i] = (byte)code;
        }
    }

    /// <summary>For signed data: optimizer's first moment, centred statistics.</summary>
    public static DynamicMap Signed { get; } = new(MakeValues(signed: true));

    /// <summary>For data that is never negative: the second moment.</summary>
    public static DynamicMap Unsigned { get; } = new(MakeValues(signed: false));

    /// <summary>The values, ascending; the largest is 1.</summary>
    public ImmutableArray<float> Values { get; }

    internal ReadOnlySpan<float> Table => _values;

    /// <summary>
    /// The code of a value in [-1, 1]. Like bitsandbytes on a CPU this looks the value up in 65,536 equal bins rather
    /// than searching for the nearest code, so that a value within half a bin of a border may get either neighbour.
    /// </summary>
    public byte Encode(float value)
    {
        float clamped = Math.Clamp(value, -1f, 1f);

        // One rounding for the product and the half, as the compiler of the reference contracts it.
        return _codeOfBin[(int)MathF.FusedMultiplyAdd((clamped + 1f) * 0.5f, Bins - 1, 0.5f)];
    }

    /// <summary>The code nearest to a value in [-1, 1]; of two equally near ones the lower.</summary>
    public byte Nearest(float value)
    {
        int code = _firstCode[BitConverter.SingleToUInt32Bits(value) >> 16];
        while (_borders[code] < value)
        {
            code++;
        }

        return (byte)code;
    }

    private static float[] MakeValues(bool signed)
    {
        List<float> values = [0f, 1f];
        for (int exponent = 0; exponent < 7; exponent++)
        {
            float scale = (float)Math.Pow(10, exponent - 6);
            int points = (1 << (signed ? exponent : exponent + 1)) + 1;
            for (int i = 0; i + 1 < points; i++)
            {
                float mean = scale * ((Point(i, points) + Point(i + 1, points)) / 2f);
                values.Add(mean);
                if (signed)
                {
                    values.Add(-mean);
                }
            }
        }

        values.Sort();
        return [.. values];
    }

    /// <summary>Point i of n between 0.1 and 1, computed from the nearer end in single precision as torch.linspace does.</summary>
    private static float Point(int i, int n)
    {
        float step = (1f - 0.1f) / (n - 1);
        return i < n / 2 ? MathF.FusedMultiplyAdd(step, i, 0.1f) : MathF.FusedMultiplyAdd(-step, n - 1 - i, 1f);
    }

    private static byte[] MakeBins(float[] values)
    {
        byte[] bins = new byte[Bins];
        int code = 0;
        for (int i = 0; i < Bins; i++)
        {
            float value = -1f + (2f * i / (Bins - 1));
            while (code < 255 && 0.5f * (values[code] + values[code + 1]) < value)
            {
                code++;
            }

            bins[i] = (byte)code;
        }

        return bins;
    }
}
