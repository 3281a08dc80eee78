using LoraSharp.Kernels.Cpu;
using static TorchSharp.torch;

namespace LoraSharp.Layers;

/// <summary>Cosines and sines of the positions of one forward pass, [b, 1, s, e/2] each in the compute type.</summary>
public sealed record RotaryAngles(RopeSpec Spec, Tensor Cos, Tensor Sin) : IDisposable
{
    /// <inheritdoc/>
    public void Dispose()
    {
        Cos.Dispose();
        Sin.Dispose();
    }
}

/// <summary>Rotary position embedding (Su et al. 2021, "RoFormer", section 3.2.2) and the ways to stretch it.</summary>
public static class RotaryEmbedding
{
    /// <summary>Angles of the positions.</summary>
    /// <param name="spec">Frequencies.</param>
    /// <param name="positions">[b, s] or [1, s], int64.</param>
    /// <param name="length">Largest position + 1, for frequencies that depend on it.</param>
    /// <param name="dtype">Type of the result; computed in float32.</param>
    public static RotaryAngles Angles(RopeSpec spec, Tensor positions, long length, ScalarType dtype)
    {
        ArgumentNullException.ThrowIfNull(spec);
        ArgumentNullException.ThrowIfNull(positions);
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        Tensor frequencies = tensor(InverseFrequencies(spec, length), device: positions.device);
        Tensor angles = positions.to(ScalarType.Float32).unsqueeze(1).unsqueeze(-1) * frequencies;
        Tensor cos = angles.cos();
        Tensor sin = angles.sin();
        if (spec.AttentionFactor != 1)
        {
            cos = cos * spec.AttentionFactor;
            sin = sin * spec.AttentionFactor;
        }

        return new RotaryAngles(spec, cos.to(dtype).MoveToOuterDisposeScope(), sin.to(dtype).MoveToOuterDisposeScope());
    }

    /// <summary>Turns the first <see cref="RopeSpec.Rotated"/> values of each head; x [b, h, s, e] → a new tensor of that shape.</summary>
    public static Tensor Apply(Tensor x, RotaryAngles angles)
    {
        ArgumentNullException.ThrowIfNull(x);
        ArgumentNullException.ThrowIfNull(angles);
        if (CpuKernels.Take(x) && angles.Cos.dtype == x.dtype && x.stride(3) == 1)
        {
            return RotaryKernel.Apply(x, angles.Cos, angles.Sin, angles.Spec.Rotated, angles.Spec.Interleaved);
        }

        using var scope = NewDisposeScope();
        int dimensions = angles.Spec.Rotated;
        long size = x.shape[^1];
        Tensor turned = dimensions == size ? x : x.narrow(-1, 0, dimensions);
        Tensor first, second;
        if (angles.Spec.Interleaved)
        {
            Tensor pairs = turned.reshape(x.shape[0], x.shape[1], x.shape[2], dimensions / 2, 2);
            first = pairs.select(-1, 0);
            second = pairs.select(-1, 1);
        }
        else
        {
            first = turned.narrow(-1, 0, dimensions / 2);
            second = turned.narrow(-1, dimensions / 2, dimensions / 2);
        }

        Tensor left = (first * angles.Cos) - (second * angles.Sin);
        Tensor right = (second * angles.Cos) + (first * angles.Sin);
        if (angles.Spec.Interleaved)
        {
            Tensor mixed = stack([left, right], -1).flatten(-2);
            return (dimensions == size ? mixed : cat([mixed, x.narrow(-1, dimensions, size - dimensions)], -1)).MoveToOuterDisposeScope();
        }

        return (dimensions == size ? cat([left, right], -1) : cat([left, right, x.narrow(-1, dimensions, size - dimensions)], -1)).MoveToOuterDisposeScope();
    }

    /// <summary>Frequencies in turns of 2π a position, e/2 of them, for a sequence of the given length.</summary>
    public static float[] InverseFrequencies(RopeSpec spec, long length)
    {
        ArgumentNullException.ThrowIfNull(spec);
        int half = spec.Rotated / 2;
        double theta = spec.Theta;
        if (spec.Scaling == RopeScaling.Dynamic)
        {
            double stretch = (spec.Factor * Math.Max(length, spec.OriginalMaxPositions) / spec.OriginalMaxPositions) - (spec.Factor - 1);
            theta *= Math.Pow(stretch, spec.Dimensions / (spec.Dimensions - 2.0));
        }

        // float32 as transformers computes them: at position 4,000 a difference in the last bit is 1e-4 of a turn.
        float[] frequencies = new float[half];
        for (int i = 0; i < half; i++)
        {
            float exponent = 2f * i / spec.Dimensions;
            frequencies[i] = 1f / (float)Math.Pow(theta, exponent);
        }

        switch (spec.Scaling)
        {
            case RopeScaling.Linear:
                Scale(frequencies, _ => spec.Factor);
                break;
            case RopeScaling.Llama3:
                Llama3(spec, frequencies);
                break;
            case RopeScaling.Yarn:
                Yarn(spec, frequencies);
                break;
            case RopeScaling.LongRope:
                IReadOnlyList<double> factors = length > spec.OriginalMaxPositions ? spec.LongFactors : spec.ShortFactors;
                Scale(frequencies, i => factors[i]);
                break;
            default:
                break;
        }

        return frequencies;
    }

    private static void Scale(float[] frequencies, Func<int, double> divisor)
    {
        for (int i = 0; i < frequencies.Length; i++)
        {
            frequencies[i] = (float)(frequencies[i] / divisor(i));
        }
    }

    private static void Llama3(RopeSpec spec, float[] frequencies)
    {
        for (int i = 0; i < frequencies.Length; i++)
        {
            double turns = spec.OriginalMaxPositions * frequencies[i] / (2 * Math.PI);
            if (turns < spec.LowFrequencyFactor)
            {
                frequencies[i] = (float)(frequencies[i] / spec.Factor);
            }
            else if (turns <= spec.HighFrequencyFactor)
            {
                double smooth = (turns - spec.LowFrequencyFactor) / (spec.HighFrequencyFactor - spec.LowFrequencyFactor);
                frequencies[i] = (float)(((1 - smooth) * frequencies[i] / spec.Factor) + (smooth * frequencies[i]));
            }
        }
    }

    // YaRN, section 3.2: below the band interpolated, above it left alone, a ramp in between.
    private static void Yarn(RopeSpec spec, float[] frequencies)
    {
        double low = Index(spec.BetaFast);
        double high = Index(spec.BetaSlow);
        if (spec.Truncate)
        {
            low = Math.Floor(low);
            high = Math.Ceiling(high);
        }

        low = Math.Max(low, 0);
        high = Math.Min(high, spec.Dimensions - 1);
        double width = low == high ? 0.001 : high - low;
        for (int i = 0; i < frequencies.Length; i++)
        {
            double keep = 1 - Math.Clamp((i - low) / width, 0, 1);
            frequencies[i] = (float)((frequencies[i] / spec.Factor * (1 - keep)) + (frequencies[i] * keep));
        }

        double Index(double turns) =>
            spec.Dimensions * Math.Log(spec.OriginalMaxPositions / (turns * 2 * Math.PI)) / (2 * Math.Log(spec.Theta));
    }
}
