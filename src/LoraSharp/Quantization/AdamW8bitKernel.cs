using LoraSharp.Tensors.Interop;

namespace LoraSharp.Quantization;

/// <summary>The numbers of one AdamW update.</summary>
/// <param name="LearningRate">η of this step.</param>
/// <param name="Beta1">Decay of the first moment.</param>
/// <param name="Beta2">Decay of the second moment.</param>
/// <param name="Epsilon">Added to the root of the second moment.</param>
/// <param name="WeightDecay">Decoupled decay.</param>
/// <param name="Step">1 for the first update.</param>
public sealed record AdamWStep(double LearningRate, double Beta1, double Beta2, double Epsilon, double WeightDecay, long Step);

/// <summary>
/// AdamW whose moments are 8-bit dynamic codes in blocks of 256 (Dettmers et al. 2022, "8-bit Optimizers via Block-wise
/// Quantization"): a block is decoded, updated and encoded again without the moments ever lying in memory in full.
/// Encodes to the nearest code, as bitsandbytes' GPU kernel does; its CPU version looks up bins, which is coarser near 0.
/// </summary>
internal static unsafe class AdamW8bitKernel
{
    /// <summary>Values a block.</summary>
    public const int BlockSize = 256;

    /// <summary>Blocks of n values.</summary>
    public static long Blocks(long count) => (count + BlockSize - 1) / BlockSize;

    /// <summary>Updates n weights.</summary>
    /// <param name="weight">n.</param>
    /// <param name="gradient">n.</param>
    /// <param name="first">n codes of the first moment.</param>
    /// <param name="firstScale">One a block.</param>
    /// <param name="second">n codes of the second moment.</param>
    /// <param name="secondScale">One a block.</param>
    /// <param name="count">n.</param>
    /// <param name="step">Rates and decays.</param>
    public static void Update(float* weight, float* gradient, byte* first, float* firstScale, byte* second, float* secondScale, long count, AdamWStep step)
    {
        fixed (float* signed = DynamicMap.Signed.Table, unsigned = DynamicMap.Unsigned.Table)
        {
            var work = new Work
            {
                Weight = weight,
                Gradient = gradient,
                First = first,
                FirstScale = firstScale,
                Second = second,
                SecondScale = secondScale,
                Signed = signed,
                Unsigned = unsigned,
                Count = count,
                Beta1 = (float)step.Beta1,
                OneMinusBeta1 = (float)(1 - step.Beta1),
                Beta2 = (float)step.Beta2,
                OneMinusBeta2 = (float)(1 - step.Beta2),
                Epsilon = (float)step.Epsilon,
                Keep = (float)(1 - (step.LearningRate * step.WeightDecay)),
                Rate = (float)(step.LearningRate / (1 - Math.Pow(step.Beta1, step.Step))),
                Root = (float)(1 / Math.Sqrt(1 - Math.Pow(step.Beta2, step.Step))),
            };
            ParallelRange.For(0, Blocks(count), 8, ref work);
        }
    }

    private struct Work : IRangeWork
    {
        public float* Weight;
        public float* Gradient;
        public byte* First;
        public float* FirstScale;
        public byte* Second;
        public float* SecondScale;
        public float* Signed;
        public float* Unsigned;
        public long Count;
        public float Beta1;
        public float OneMinusBeta1;
        public float Beta2;
        public float OneMinusBeta2;
        public float Epsilon;
        public float Keep;
        public float Rate;
        public float Root;

        public readonly void Run(long begin, long end)
        {
            float* m = stackalloc float[BlockSize];
            float* v = stackalloc float[BlockSize];
            for (long block = begin; block < end; block++)
            {
                long start = block * BlockSize;
                int length = (int)Math.Min(BlockSize, Count - start);
                float* weight = Weight + start;
                float* gradient = Gradient + start;
                float largestM = 0;
                float largestV = 0;
                for (int i = 0; i < length; i++)
                {
                    float g = gradient[i];
                    m[i] = (Signed[First[start + i]] * FirstScale[block] * Beta1) + (OneMinusBeta1 * g);
                    v[i] = (Unsigned[Second[start + i]] * SecondScale[block] * Beta2) + (OneMinusBeta2 * g * g);
                    largestM = Math.Max(largestM, Math.Abs(m[i]));
                    largestV = Math.Max(largestV, v[i]);
                    weight[i] = (weight[i] * Keep) - (Rate * m[i] / ((MathF.Sqrt(v[i]) * Root) + Epsilon));
                }

                FirstScale[block] = Encode(m, largestM, First + start, length, DynamicMap.Signed);
                SecondScale[block] = Encode(v, largestV, Second + start, length, DynamicMap.Unsigned);
            }
        }

        private static float Encode(float* values, float largest, byte* codes, int length, DynamicMap map)
        {
            float reciprocal = largest > 0 ? 1f / largest : 0f;
            for (int i = 0; i < length; i++)
            {
                codes[i] = map.Nearest(values[i] * reciprocal);
            }

            return largest;
        }
    }
}
