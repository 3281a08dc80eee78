using System.Globalization;
using System.Text.RegularExpressions;

namespace LoraSharp.Formats.Peft;

/// <summary>Which modules an adapter touches and with which rank and alpha: the rules of PEFT, to the letter.</summary>
public static class PeftMatching
{
    /// <summary>PEFT condenses lists of at least this many names to suffixes.</summary>
    private const int LongList = 20;

    /// <summary>
    /// Whether a module gets low-rank factors. Exclusion and <c>modules_to_save</c> come first; a layer index restricts
    /// suffix matches only, a name given in full is always taken.
    /// </summary>
    /// <param name="config">The configuration; <c>all-linear</c> must have been resolved.</param>
    /// <param name="path">Path of the module, e.g. <c>model.layers.0.self_attn.q_proj</c>.</param>
    public static bool IsTarget(PeftConfig config, string path)
    {
        ArgumentNullException.ThrowIfNull(config);
        ArgumentNullException.ThrowIfNull(path);
        if (config.ExcludeModules?.Matches(path) == true)
        {
            return false;
        }

        // A saved module is never adapted as well.
        if (config.ModulesToSave?.Any(m => PythonRegex.Match($@"(^|.*\.){m}($|\..*)", path).Success) == true)
        {
            return false;
        }

        // The weight of a layer, named as a parameter, is that layer.
        if (TargetParameters.IsTarget(config, path + ".weight"))
        {
            return true;
        }

        if (config.TargetModules is not { } targets || !targets.Matches(path))
        {
            return false;
        }

        if (targets.Pattern is not null || targets.Names.Contains(path, StringComparer.Ordinal) || config.LayersToTransform is not { Count: > 0 } layers)
        {
            return true;
        }

        return LayerIndex(config.LayersPattern, path) is { } index && layers.Contains(index);
    }

    /// <summary>Rank of a module: the first <c>rank_pattern</c> that matches the end of its path, else <c>r</c>.</summary>
    public static int RankOf(PeftConfig config, string path)
    {
        ArgumentNullException.ThrowIfNull(config);
        return PatternKey(config.RankPattern.Keys, path) is { } key ? config.RankPattern[key] : config.Rank;
    }

    /// <summary>Alpha of a module: the first <c>alpha_pattern</c> that matches the end of its path, else <c>lora_alpha</c>.</summary>
    public static double AlphaOf(PeftConfig config, string path)
    {
        ArgumentNullException.ThrowIfNull(config);
        return PatternKey(config.AlphaPattern.Keys, path) is { } key ? config.AlphaPattern[key] : config.Alpha;
    }

    /// <summary>Factor on B·A: alpha / r, or alpha / √r with rank-stabilised scaling (Kalajdzievski 2023, rsLoRA).</summary>
    public static double ScalingOf(PeftConfig config, string path, int? rank = null)
    {
        ArgumentNullException.ThrowIfNull(config);
        int r = rank ?? RankOf(config, path);
        return AlphaOf(config, path) / (config.UseRsLora ? Math.Sqrt(r) : r);
    }

    /// <summary>
    /// Whether a tensor belongs to a module of <c>modules_to_save</c>: PEFT takes every module whose path ends with an
    /// entry, letter for letter and not only after a dot, and all that lies below it.
    /// </summary>
    /// <param name="modulesToSave">The entries.</param>
    /// <param name="path">Path of the module that holds the tensor, e.g. <c>model.layers.0.mlp.up_proj</c>.</param>
    public static bool IsSaved(IReadOnlyList<string>? modulesToSave, string path)
    {
        ArgumentNullException.ThrowIfNull(path);
        if (modulesToSave is not { Count: > 0 })
        {
            return false;
        }

        for (string module = path; module.Length > 0;)
        {
            if (modulesToSave.Any(entry => module.EndsWith(entry, StringComparison.Ordinal)))
            {
                return true;
            }

            int dot = module.LastIndexOf('.');
            module = dot < 0 ? string.Empty : module[..dot];
        }

        return false;
    }

    /// <summary>
    /// The names that PEFT stores for <c>all-linear</c>: all of them, or where they are many the fewest suffixes that
    /// single them out from the other modules.
    /// </summary>
    /// <param name="targets">Paths of the linear layers.</param>
    /// <param name="others">Paths of every other module.</param>
    public static IReadOnlyList<string> Condense(IReadOnlyCollection<string> targets, IReadOnlyCollection<string> others)
    {
        ArgumentNullException.ThrowIfNull(targets);
        ArgumentNullException.ThrowIfNull(others);
        if (targets.Count < LongList)
        {
            return [.. targets];
        }

        var taken = new HashSet<string>(others.SelectMany(Suffixes), StringComparer.Ordinal);
        var needed = new List<string>();
        foreach (string target in targets)
        {
            foreach (string suffix in Suffixes(target))
            {
                if (needed.Contains(suffix) || taken.Contains(suffix))
                {
                    continue;
                }

                if (!needed.Any(s => target.EndsWith("." + s, StringComparison.Ordinal)))
                {
                    needed.Add(suffix);
                    break;
                }
            }
        }

        return needed.Count > 0 && needed.Count < targets.Count ? needed : [.. targets];
    }

    private static string? PatternKey(IEnumerable<string> keys, string path) =>
        keys.FirstOrDefault(key => PythonRegex.Match($@"(.*\.)?({key})$", path).Success);

    private static int? LayerIndex(IReadOnlyList<string>? patterns, string path)
    {
        // Lazy, so that it is the layer's number and not an expert's.
        string[] expressions = patterns is { Count: > 0 }
            ? [.. patterns.Select(p => $@".*?\.{p}\.(?<layer>\d+)\.")]
            : [@".*?\.[^.]*\.(?<layer>\d+)\."];
        foreach (string expression in expressions)
        {
            Match match = PythonRegex.Match(expression, path);
            if (match.Success)
            {
                return int.TryParse(match.Groups["layer"].Value, NumberStyles.None, CultureInfo.InvariantCulture, out int index) ? index : null;
            }
        }

        return null;
    }

    // Shortest first: q_proj, self_attn.q_proj, ...
    private static IEnumerable<string> Suffixes(string path)
    {
        for (int dot = path.LastIndexOf('.'); dot >= 0; dot = dot == 0 ? -1 : path.LastIndexOf('.', dot - 1))
        {
            yield return path[(dot + 1)..];
        }

        yield return path;
    }
}
