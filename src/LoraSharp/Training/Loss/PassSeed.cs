namespace LoraSharp.Training.Loss;

/// <summary>
/// Seeds of generators from the numbers they depend on. libtorch's CPU generator takes only the low 32 bits of a seed, so
/// numbers that differ further up must be mixed down: two passes would else draw the same.
/// </summary>
internal static class PassSeed
{
    /// <summary>A seed of 63 bits, all of which depend on every bit of the numbers.</summary>
    public static long Of(long seed, long pass, long stream)
    {
        ulong mixed = Mix(Mix(Mix((ulong)seed) ^ (ulong)pass) ^ (ulong)stream);
        return (long)(mixed >> 1);
    }

    // The finaliser of SplitMix64 (Steele, Lea & Flood 2014).
    private static ulong Mix(ulong value)
    {
        value += 0x9E3779B97F4A7C15;
        value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9;
        value = (value ^ (value >> 27)) * 0x94D049BB133111EB;
        return value ^ (value >> 31);
    }
}
