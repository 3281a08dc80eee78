namespace LoraSharp.Formats.Chat;

/// <summary>What a template may spend on one rendering. Templates come with downloaded models and may be hostile.</summary>
public sealed record ChatTemplateLimits
{
    /// <summary>Most evaluation steps; a long conversation takes less than a million.</summary>
    public long MaxSteps { get; init; } = 10_000_000;

    /// <summary>Most characters in the result, and in any text on the way to it.</summary>
    public int MaxTextLength { get; init; } = 32 << 20;

    /// <summary>Throws when a value makes no sense, naming each that does.</summary>
    /// <exception cref="LoraSharpException">A limit is not positive.</exception>
    public void Validate()
    {
        string[] faults = [.. new[] { (nameof(MaxSteps), MaxSteps), (nameof(MaxTextLength), MaxTextLength) }.Where(limit => limit.Item2 <= 0).Select(limit => $"{limit.Item1} must be positive, got {limit.Item2}")];
        if (faults.Length > 0)
        {
            throw new LoraSharpException($"Chat template limits: {string.Join("; ", faults)}.");
        }
    }
}
