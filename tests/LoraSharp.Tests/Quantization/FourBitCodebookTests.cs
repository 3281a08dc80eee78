using LoraSharp.Formats;
using LoraSharp.Quantization;
using LoraSharp.Tensors;

namespace LoraSharp.Tests.Quantization;

/// <summary>
/// Codes against the definition of bitsandbytes' CPU reference: the nearest value of the table in single precision, the
/// first one of equals. For FP4, of which there are no fixtures, this is the proof.
/// </summary>
public sealed unsafe class FourBitCodebookTests
{
    public FourBitCodebookTests() => NativeRuntime.EnsureLoaded();

    /// <summary>bitsandbytes' table, sign · {0, 0.0625, 8, 12, 4, 6, 2, 3} / 12: a sign, two bits of exponent, one of mantissa.</summary>
    [Fact]
    public void Fp4_has_the_values_of_its_bit_patterns()
    {
        for (int code = 0; code < 16; code++)
        {
            int exponent = (code >> 1) & 3;
            int mantissa = code & 1;

            // A larger exponent field stands for a smaller power, 2^(4 − e); patterns 000 and 001 are zero and 1/16.
            double magnitude = (exponent, mantissa) switch
            {
                (0, 0) => 0,
                (0, 1) => 0.0625,
                _ => Math.Pow(2, 4 - exponent) * (1 + (0.5 * mantissa)),
            };
            Assert.Equal((float)((code < 8 ? magnitude : -magnitude) / 12), FourBitCodebook.Fp4.Values[code], 1e-8f);
        }
    }

    [Theory]
    [InlineData(FourBitType.Nf4)]
    [InlineData(FourBitType.Fp4)]
    public void Codes_are_the_nearest_values_also_next_to_the_borders(FourBitType type)
    {
        FourBitCodebook codebook = FourBitCodebook.Of(type);
        float[] table = [.. codebook.Values];
        var values = new List<float> { 0f, -0f, 1e-30f, -1e-30f, float.Epsilon };
        float[] sorted = [.. table.Distinct().Order()];
        for (int i = 0; i + 1 < sorted.Length; i++)
        {
            float near = (sorted[i] + sorted[i + 1]) / 2;
            for (int step = 0; step < 40; step++)
            {
                near = MathF.BitDecrement(near);
            }

            for (int step = 0; step < 80; step++)
            {
                values.Add(near = MathF.BitIncrement(near));
            }
        }

        var random = new Random(9);
        while (values.Count < 1 << 14)
        {
            values.Add((random.NextSingle() * 2) - 1);
        }

        // One per block is ±1, so that scaling leaves the others as they are.
        const int Block = 64;
        float[] blocks = [.. values.Chunk(Block - 1).Where(c => c.Length == Block - 1).SelectMany((c, i) => c.Append(i % 2 == 0 ? 1f : -1f))];
        byte[] expected = new byte[blocks.Length / 2];
        for (int i = 0; i < blocks.Length; i++)
        {
            int nearest = Enumerable.Range(0, 16).MinBy(c => MathF.Abs(blocks[i] - table[c]));
            expected[i / 2] |= (byte)(i % 2 == 0 ? nearest << 4 : nearest);
        }

        foreach (VectorWidth width in FourBitKernelTests.Widths())
        {
            byte[] packed = new byte[expected.Length];
            float[] absmax = new float[blocks.Length / Block];
            fixed (float* source = blocks, scales = absmax)
            fixed (byte* target = packed)
            {
                FourBitQuantizer.Quantize(source, ElementType.F32, blocks.Length, Block, codebook, target, scales, width);
            }

            Assert.All(absmax, a => Assert.Equal(1f, a));
            Assert.Equal(expected, packed);
        }
    }
}
