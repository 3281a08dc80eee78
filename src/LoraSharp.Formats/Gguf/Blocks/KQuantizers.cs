namespace LoraSharp.Formats.Gguf.Blocks;

/// <summary>
/// Encoders of the super-blocks Q4_K and Q6_K. The scale of each group is found by a short search: for a number of step
/// sizes the codes are rounded, the scale (and minimum) that suit these codes best follow by weighted least squares, and
/// the pair with the smallest error is kept. Then the scales themselves are quantised and the codes rounded once more.
/// </summary>
internal static class KQuantizers
{
    private const int Group6 = 16;
    private const int Group4 = 32;

    /// <summary>256 weights to 210 bytes.</summary>
    public static void Q6_K(ReadOnlySpan<float> x, Span<byte> block)
    {
        block.Clear();
        Span<float> scales = stackalloc float[16];
        float extreme = 0;
        for (int group = 0; group < 16; group++)
        {
            scales[group] = SymmetricScale(x.Slice(group * Group6, Group6), 32);
            extreme = MathF.Abs(scales[group]) > MathF.Abs(extreme) ? scales[group] : extreme;
        }

        if (MathF.Abs(extreme) < 1e-15f)
        {
            return;
        }

        // The scale of largest magnitude becomes −128, which uses the whole range of a signed byte.
        float d = (float)(Half)(extreme / -128);
        LegacyQuantizers.WriteHalf(block[208..], d);
        float inverse = -128 / extreme;
        Span<byte> codes = stackalloc byte[256];
        for (int group = 0; group < 16; group++)
        {
            int scale = Math.Clamp((int)MathF.Round(inverse * scales[group]), -128, 127);
            block[192 + group] = (byte)(sbyte)scale;
            float step = d * scale;
            for (int j = group * Group6; j < (group + 1) * Group6; j++)
            {
                codes[j] = (byte)(step == 0 ? 32 : Math.Clamp((int)MathF.Round(x[j] / step), -32, 31) + 32);
            }
        }

        for (int i = 0; i < 256; i++)
        {
            int half = i / 128;
            int within = i % 128;
            block[(half * 64) + (within % 64)] |= (byte)((codes[i] & 15) << (within / 64 * 4));
            block[128 + (half * 32) + (within % 32)] |= (byte)(codes[i] >> 4 << (within / 32 * 2));
        }
    }

    /// <summary>256 weights to 144 bytes.</summary>
    public static void Q4_K(ReadOnlySpan<float> x, Span<byte> block)
    {
        block.Clear();
        Span<float> scales = stackalloc float[8];
        Span<float> minima = stackalloc float[8];
        float largestScale = 0;
        float largestMinimum = 0;
        for (int group = 0; group < 8; group++)
        {
            (scales[group], minima[group]) = AffineScale(x.Slice(group * Group4, Group4), 15);
            largestScale = MathF.Max(largestScale, scales[group]);
            largestMinimum = MathF.Max(largestMinimum, minima[group]);
        }

        // Scales are rounded before d is: the other way round other bytes come out than ggml's.
        float inverseScale = largestScale > 0 ? 63 / largestScale : 0;
        float inverseMinimum = largestMinimum > 0 ? 63 / largestMinimum : 0;
        float d = (float)(Half)(largestScale / 63);
        float dmin = (float)(Half)(largestMinimum / 63);
        LegacyQuantizers.WriteHalf(block, d);
        LegacyQuantizers.WriteHalf(block[2..], dmin);
        for (int group = 0; group < 8; group++)
        {
            int scale = Math.Clamp((int)MathF.Round(inverseScale * scales[group]), 0, 63);
            int minimum = Math.Clamp((int)MathF.Round(inverseMinimum * minima[group]), 0, 63);
            Pack(block.Slice(4, 12), group, scale, minimum);
            float step = d * scale;
            float offset = dmin * minimum;
            for (int j = 0; j < Group4; j++)
            {
                int code = step == 0 ? 0 : Math.Clamp((int)MathF.Round((x[(group * Group4) + j] + offset) / step), 0, 15);
                block[16 + (group / 2 * 32) + j] |= (byte)(code << (group % 2 * 4));
            }
        }
    }

    /// <summary>The scale s that makes s·q, q in −levels … levels − 1, closest to x, large weights counting more (x²).</summary>
    private static float SymmetricScale(ReadOnlySpan<float> x, int levels)
    {
        float extreme = 0;
        foreach (float value in x)
        {
            extreme = MathF.Abs(value) > MathF.Abs(extreme) ? value : extreme;
        }

        if (MathF.Abs(extreme) < 1e-15f)
        {
            return 0;
        }

        float best = 0;
        float bestGain = -1;
        foreach (int step in (ReadOnlySpan<int>)[0, -9, -8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9])
        {
            float inverse = -(levels + (0.1f * step)) / extreme;
            float xq = 0;
            float qq = 0;
            foreach (float value in x)
            {
                float q = Math.Clamp(MathF.Round(inverse * value), -levels, levels - 1);
                float weight = value * value;
                xq += weight * value * q;
                qq += weight * q * q;
            }

            // With s = xq / qq the weighted error falls by xq² / qq.
            if (qq > 0 && xq * xq > bestGain * qq)
            {
                bestGain = xq * xq / qq;
                best = xq / qq;
            }
        }

        return best;
    }

    /// <summary>
    /// Scale and minimum (both ≥ 0) that make s·q − m, q in 0 … levels, closest to x, large weights counting more. Each
    /// round of the search takes its codes from the best minimum found so far.
    /// </summary>
    private static (float Scale, float Minimum) AffineScale(ReadOnlySpan<float> x, int levels)
    {
        float low = 0;
        float high = x[0];
        float squares = 0;
        foreach (float value in x)
        {
            low = MathF.Min(low, value);
            high = MathF.Max(high, value);
            squares += value * value;
        }

        if (high <= low)
        {
            return (0, -low);
        }

        float mean = MathF.Sqrt(squares / x.Length);
        float scale = (high - low) / levels;
        float best = Error(x, mean, levels / (high - low), levels, low, scale, low);
        for (int step = 0; step <= 20; step++)
        {
            // From one level less to one more.
            float inverse = (levels - 1 + (0.1f * step)) / (high - low);
            if (Fit(x, mean, inverse, levels, low) is not { } found)
            {
                continue;
            }

            float error = Error(x, mean, inverse, levels, low, found.Scale, found.Low);
            if (error < best)
            {
                (best, scale, low) = (error, found.Scale, found.Low);
            }
        }

        return (scale, -low);
    }

    /// <summary>Scale and lowest value that suit the codes best, by weighted least squares; null where all codes are equal.</summary>
    private static (float Scale, float Low)? Fit(ReadOnlySpan<float> x, float mean, float inverse, int levels, float low)
    {
        float w = 0;
        float wx = 0;
        float wq = 0;
        float wqq = 0;
        float wxq = 0;
        foreach (float value in x)
        {
            float q = Math.Clamp(MathF.Round(inverse * (value - low)), 0, levels);
            float weight = mean + MathF.Abs(value);
            w += weight;
            wx += weight * value;
            wq += weight * q;
            wqq += weight * q * q;
            wxq += weight * value * q;
        }

        float determinant = (w * wqq) - (wq * wq);
        if (determinant <= 0)
        {
            return null;
        }

        float lowest = ((wqq * wx) - (wq * wxq)) / determinant;

        // One above zero cannot be stored.
        return lowest > 0 ? (wxq / wqq, 0) : (((w * wxq) - (wx * wq)) / determinant, lowest);
    }

    private static float Error(ReadOnlySpan<float> x, float mean, float inverse, int levels, float low, float scale, float lowest)
    {
        float error = 0;
        foreach (float value in x)
        {
            float q = Math.Clamp(MathF.Round(inverse * (value - low)), 0, levels);
            float difference = (scale * q) + lowest - value;
            error += (mean + MathF.Abs(value)) * difference * difference;
        }

        return error;
    }

    private static void Pack(Span<byte> packed, int group, int scale, int minimum)
    {
        if (group < 4)
        {
            packed[group] |= (byte)scale;
            packed[group + 4] |= (byte)minimum;
            return;
        }

        packed[group + 4] |= (byte)((scale & 15) | ((minimum & 15) << 4));
        packed[group - 4] |= (byte)(scale >> 4 << 6);
        packed[group] |= (byte)(minimum >> 4 << 6);
    }
}
