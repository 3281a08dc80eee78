using System.Text.Json.Nodes;

namespace LoraSharp.Formats.Gguf.Mapping;

/// <summary>
/// Llama 3's scaling of rotary frequencies (Llama 3.1 model card; transformers' <c>rope_type: llama3</c>). GGUF holds the
/// resulting factors, one a frequency; config.json the four numbers they come from.
/// </summary>
internal static class GgufLlama3Rope
{
    /// <summary>Divisors of the frequencies, [e/2].</summary>
    public static float[] Factors(double theta, int rotated, double factor, double low, double high, double original)
    {
        float[] factors = new float[rotated / 2];
        for (int i = 0; i < factors.Length; i++)
        {
            double wavelength = 2 * Math.PI * Math.Pow(theta, 2.0 * i / rotated);
            double smooth = Math.Clamp(((original / wavelength) - low) / (high - low), 0, 1);
            factors[i] = (float)(1 / (((1 - smooth) / factor) + smooth));
        }

        return factors;
    }

    /// <summary>The numbers that give these factors, with the low and high limits of 1 and 4 that every Llama 3 has; null when none do.</summary>
    public static JsonObject? Recover(float[] factors, double theta, int rotated, int? original)
    {
        if (factors.Length != rotated / 2 || factors.Length == 0 || factors.Any(f => !float.IsFinite(f) || f < 1))
        {
            return null;
        }

        double factor = factors.Max();
        foreach (double candidate in Candidates(factors, theta, rotated, factor, original))
        {
            float[] made = Factors(theta, rotated, factor, 1, 4, candidate);
            if (made.Zip(factors).All(p => Math.Abs(p.First - p.Second) <= 1e-5 * p.Second))
            {
                return new JsonObject
                {
                    ["rope_type"] = "llama3",
                    ["factor"] = factor,
                    ["low_freq_factor"] = 1.0,
                    ["high_freq_factor"] = 4.0,
                    ["original_max_position_embeddings"] = (int)candidate,
                };
            }
        }

        return null;
    }

    private static IEnumerable<double> Candidates(float[] factors, double theta, int rotated, double factor, int? original)
    {
        if (original is { } known)
        {
            yield return known;
        }

        yield return 8192;
        for (int i = 0; i < factors.Length; i++)
        {
            // A factor between the limits tells the original length by itself.
            if (factors[i] > 1.0001 && factors[i] < factor * 0.9999)
            {
                double smooth = ((1.0 / factors[i]) - (1 / factor)) / (1 - (1 / factor));
                yield return Math.Round(2 * Math.PI * Math.Pow(theta, 2.0 * i / rotated) * ((smooth * 3) + 1));
            }
        }
    }
}
