using System.Text.Json.Nodes;

namespace LoraSharp.Formats.Peft;

/// <summary>
/// What PEFT takes for <c>target_modules</c> and <c>exclude_modules</c>: a regular expression that must match the
/// whole module path, or a list of names of which a path may be one or end with one after a dot.
/// </summary>
public sealed class ModuleSelector : IEquatable<ModuleSelector>
{
    private ModuleSelector(string? pattern, IReadOnlyList<string> names)
    {
        Pattern = pattern;
        Names = names;
    }

    /// <summary>The word that stands for every linear layer but the output head.</summary>
    public const string AllLinear = "all-linear";

    /// <summary>The regular expression, or null when it is a list.</summary>
    public string? Pattern { get; }

    /// <summary>The names; empty when it is a regular expression.</summary>
    public IReadOnlyList<string> Names { get; }

    /// <summary>Whether it is the word <c>all-linear</c> (in any case), which only a model's layers can resolve.</summary>
    public bool IsAllLinear => string.Equals(Pattern, AllLinear, StringComparison.OrdinalIgnoreCase);

    /// <summary>A regular expression over whole module paths, or <c>all-linear</c>.</summary>
    public static ModuleSelector Regex(string pattern)
    {
        ArgumentException.ThrowIfNullOrEmpty(pattern);
        return new(pattern, []);
    }

    /// <summary>A list of names or suffixes, kept in order, each once.</summary>
    public static ModuleSelector List(IEnumerable<string> names) => new(null, [.. names.Distinct(StringComparer.Ordinal)]);

    /// <summary>
    /// What a person writes in a recipe or flag: <c>all-linear</c>, a comma-separated list of names, or a regular
    /// expression (anything that holds other characters than letters, digits, <c>_</c>, <c>.</c>, <c>-</c> and commas).
    /// </summary>
    public static ModuleSelector Parse(string text)
    {
        ArgumentException.ThrowIfNullOrWhiteSpace(text);
        string trimmed = text.Trim();
        if (string.Equals(trimmed, AllLinear, StringComparison.OrdinalIgnoreCase))
        {
            return Regex(AllLinear);
        }

        return trimmed.All(c => char.IsLetterOrDigit(c) || c is '_' or '.' or '-' or ',' or ' ')
            && !trimmed.Contains(".*", StringComparison.Ordinal)
            ? List(trimmed.Split(',', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries))
            : Regex(trimmed);
    }

    /// <summary>Whether a module path is selected. <c>all-linear</c> must have been resolved to names before.</summary>
    public bool Matches(string path)
    {
        ArgumentNullException.ThrowIfNull(path);
        return Pattern is not null
            ? PythonRegex.FullMatch(Pattern, path)
            : Names.Any(name => path == name || EndsWithName(path, name));
    }

    /// <summary>As it stands in <c>adapter_config.json</c>.</summary>
    public JsonNode ToJson() => Pattern is not null
        ? JsonValue.Create(Pattern)
        : new JsonArray([.. Names.Select(n => (JsonNode)JsonValue.Create(n))]);

    /// <inheritdoc/>
    public bool Equals(ModuleSelector? other) => other is not null && Pattern == other.Pattern
        && Names.Order(StringComparer.Ordinal).SequenceEqual(other.Names.Order(StringComparer.Ordinal));

    /// <inheritdoc/>
    public override bool Equals(object? obj) => Equals(obj as ModuleSelector);

    /// <inheritdoc/>
    public override int GetHashCode() => Pattern is not null
        ? StringComparer.Ordinal.GetHashCode(Pattern)
        : Names.Aggregate(0, (hash, name) => hash ^ StringComparer.Ordinal.GetHashCode(name));

    /// <inheritdoc/>
    public override string ToString() => Pattern ?? string.Join(", ", Names);

    private static bool EndsWithName(string path, string name) =>
        path.Length > name.Length && path[path.Length - name.Length - 1] == '.' && path.EndsWith(name, StringComparison.Ordinal);
}
