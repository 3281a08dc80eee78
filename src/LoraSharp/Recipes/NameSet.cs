namespace LoraSharp.Recipes;

/// <summary>Either one word or expression, or a list of names.</summary>
/// <param name="Single">A word such as <c>all-linear</c> or a regular expression; null when it is a list.</param>
public sealed record NameSet(string? Single)
{
    /// <summary>The names; empty when it is a single expression.</summary>
    public IReadOnlyList<string> Names { get; init; } = [];

    /// <inheritdoc/>
    public override string ToString() => Single ?? string.Join(", ", Names);
}
