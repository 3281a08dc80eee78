using System.Globalization;
using System.Text.RegularExpressions;

namespace LoraSharp.Formats.Gguf.Mapping;

/// <summary>
/// Translates names by an architecture's rules. A name is a stem (<c>blk.3.attn_q</c>) and a suffix
/// (<c>.weight</c>, <c>.bias</c> or none); rules speak of stems.
/// </summary>
internal sealed partial class GgufNames
{
    private readonly Dictionary<string, GgufTensorRule> _byGguf = new(StringComparer.Ordinal);
    private readonly Dictionary<string, GgufTensorRule> _byHuggingFace = new(StringComparer.Ordinal);

    public GgufNames(GgufArchitecture architecture)
    {
        foreach (GgufTensorRule rule in architecture.Tensors)
        {
            _byGguf.Add(rule.Gguf, rule);
            if (rule.Layout != GgufLayout.Ignored)
            {
                _byHuggingFace.Add(rule.HuggingFace, rule);
            }

            if (rule.Second is { } second)
            {
                _byGguf.Add(second, rule with { Layout = GgufLayout.Ignored });
            }
        }
    }

    /// <summary>The rule for a tensor of a file and the layer it belongs to (-1: none); null when there is no rule.</summary>
    public (GgufTensorRule Rule, int Layer, string Suffix)? FromGguf(string name)
    {
        (string stem, string suffix) = Split(name);
        (string pattern, int layer, _) = Pattern(stem);
        return _byGguf.TryGetValue(pattern, out GgufTensorRule? rule) ? (rule, layer, suffix) : null;
    }

    /// <summary>The rule for a tensor of a state dict with its layer and expert; null when there is no rule.</summary>
    public (GgufTensorRule Rule, int Layer, int Expert, string Suffix)? FromHuggingFace(string name)
    {
        (string stem, string suffix) = Split(name);
        (string pattern, int layer, int expert) = Pattern(stem);
        return _byHuggingFace.TryGetValue(pattern, out GgufTensorRule? rule) ? (rule, layer, expert, suffix) : null;
    }

    /// <summary>A pattern with its numbers filled in.</summary>
    public static string Fill(string pattern, int layer, int expert = 0) => pattern
        .Replace("{i}", layer.ToString(CultureInfo.InvariantCulture), StringComparison.Ordinal)
        .Replace("{e}", expert.ToString(CultureInfo.InvariantCulture), StringComparison.Ordinal);

    private static (string Stem, string Suffix) Split(string name)
    {
        foreach (string suffix in (ReadOnlySpan<string>)[".weight", ".bias"])
        {
            if (name.EndsWith(suffix, StringComparison.Ordinal))
            {
                return (name[..^suffix.Length], suffix);
            }
        }

        return (name, string.Empty);
    }

    private static (string Pattern, int Layer, int Expert) Pattern(string stem)
    {
        int layer = -1;
        int expert = -1;
        string pattern = Number().Replace(stem, match =>
        {
            if (!int.TryParse(match.ValueSpan, NumberStyles.None, CultureInfo.InvariantCulture, out int number) || expert >= 0)
            {
                return match.Value;
            }

            if (layer < 0)
            {
                layer = number;
                return "{i}";
            }

            expert = number;
            return "{e}";
        });
        return (pattern, layer, expert);
    }

    [GeneratedRegex(@"(?<=\.)[0-9]+(?=\.|$)")]
    private static partial Regex Number();
}
