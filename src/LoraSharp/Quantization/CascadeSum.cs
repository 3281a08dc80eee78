using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace LoraSharp.Quantization;

/// <summary>
/// The sum of floats in exactly the order in which torch adds them up on one thread with 256-bit vectors: four
/// interleaved accumulators that cascade into coarser ones. Needed because the mean of the absolute maxima is stored in
/// a checkpoint, and the last bit of a sum depends on its order.
/// </summary>
internal static unsafe class CascadeSum
{
    private const int Interleave = 4;
    private const int Levels = 4;

    /// <summary>Mean of <paramref name="values"/>, in single precision.</summary>
    public static float Mean(ReadOnlySpan<float> values)
    {
        fixed (float* pointer = values)
        {
            return Sum(pointer, values.Length) / values.Length;
        }
    }

    private static float Sum(float* values, int count)
    {
        if (count < Vector256<float>.Count)
        {
            // Too short for one vector: the same scheme on scalars, each in lane 0.
            return Rows(values, count, 1).GetElement(0);
        }

        int vectors = count / Vector256<float>.Count;
        Vector256<float> partial = Rows(values, vectors, Vector256<float>.Count);
        float sum = 0;
        for (int i = vectors * Vector256<float>.Count; i < count; i++)
        {
            sum += values[i];
        }

        for (int i = 0; i < Vector256<float>.Count; i++)
        {
            sum += partial.GetElement(i);
        }

        return sum;
    }

    /// <summary>Adds up <paramref name="count"/> items of <paramref name="width"/> floats each (8, or 1 in lane 0).</summary>
    private static Vector256<float> Rows(float* values, int count, int width)
    {
        int rounds = count / Interleave;
        int power = Math.Max(4, CeilLog2(rounds) / Levels);
        int step = 1 << power;
        int mask = step - 1;
        Vector256<float>* sums = stackalloc Vector256<float>[Levels * Interleave];
        new Span<byte>(sums, Levels * Interleave * sizeof(Vector256<float>)).Clear();

        int i = 0;
        while (i + step <= rounds)
        {
            for (int j = 0; j < step; j++, i++)
            {
                AddRound(sums, values, i, width);
            }

            for (int level = 1; level < Levels; level++)
            {
                for (int k = 0; k < Interleave; k++)
                {
                    sums[(level * Interleave) + k] += sums[((level - 1) * Interleave) + k];
                    sums[((level - 1) * Interleave) + k] = Vector256<float>.Zero;
                }

                if ((i & (mask << (level * power))) != 0)
                {
                    break;
                }
            }
        }

        for (; i < rounds; i++)
        {
            AddRound(sums, values, i, width);
        }

        for (int level = 1; level < Levels; level++)
        {
            for (int k = 0; k < Interleave; k++)
            {
                sums[k] += sums[(level * Interleave) + k];
            }
        }

        for (int item = rounds * Interleave; item < count; item++)
        {
            sums[0] += Load(values, item, width);
        }

        for (int k = 1; k < Interleave; k++)
        {
            sums[0] += sums[k];
        }

        return sums[0];
    }

    private static void AddRound(Vector256<float>* sums, float* values, int round, int width)
    {
        for (int k = 0; k < Interleave; k++)
        {
            sums[k] += Load(values, (round * Interleave) + k, width);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> Load(float* values, int item, int width) =>
        width == 1 ? Vector256.CreateScalar(values[item]) : Vector256.Load(values + ((long)item * width));

    private static int CeilLog2(int value) => value <= 2 ? 1 : 32 - System.Numerics.BitOperations.LeadingZeroCount((uint)value - 1);
}
