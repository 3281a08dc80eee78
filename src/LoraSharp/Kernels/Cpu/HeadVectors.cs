using System.Runtime.Intrinsics;

namespace LoraSharp.Kernels.Cpu;

/// <summary>
/// The three loops that attention of one query head consists of, whatever its cache looks like. Each adds up in one fixed
/// order, so that a sequence's numbers do not depend on the batch it is in.
/// </summary>
internal static unsafe class HeadVectors<T>
    where T : struct, IElement
{
    /// <summary>q·k of <paramref name="size"/> values.</summary>
    public static float Dot(float* q, byte* key, long size)
    {
        Vector512<float> sum = default;
        long i = 0;
        for (; i + 16 <= size; i += 16)
        {
            sum = Vector512.FusedMultiplyAdd(Vector512.Load(q + i), T.Load(key, i), sum);
        }

        float total = Vector512.Sum(sum);
        for (; i < size; i++)
        {
            total += q[i] * T.Get(key, i);
        }

        return total;
    }

    /// <summary>Makes exp(score − largest) of each score, in place, and gives their sum.</summary>
    public static float Exponentiate(float* scores, long count, float largest)
    {
        Vector512<float> sums = default, top = Vector512.Create(largest);
        long t = 0;
        for (; t + 16 <= count; t += 16)
        {
            Vector512<float> e = Vector512.Exp(Vector512.Load(scores + t) - top);
            e.Store(scores + t);
            sums += e;
        }

        float total = Vector512.Sum(sums);
        for (; t < count; t++)
        {
            scores[t] = MathF.Exp(scores[t] - largest);
            total += scores[t];
        }

        return total;
    }

    /// <summary>sum += weight · value over <paramref name="size"/> values.</summary>
    public static void Add(float* sum, float weight, byte* value, long size)
    {
        Vector512<float> weights = Vector512.Create(weight);
        long i = 0;
        for (; i + 16 <= size; i += 16)
        {
            Vector512.FusedMultiplyAdd(weights, T.Load(value, i), Vector512.Load(sum + i)).Store(sum + i);
        }

        for (; i < size; i++)
        {
            sum[i] += weight * T.Get(value, i);
        }
    }
}
