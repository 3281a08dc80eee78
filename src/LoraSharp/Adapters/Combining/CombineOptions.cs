using LoraSharp.Formats;

namespace LoraSharp.Adapters.Combining;

/// <summary>How adapters become one.</summary>
public enum CombineMethod
{
    /// <summary>Sums of the factors, each times the root of weight · scaling. Equal ranks; with more than one adapter not the sum of the updates.</summary>
    Linear,

    /// <summary>Factors side by side: exactly the weighted sum of the updates, with the sum of the ranks.</summary>
    Cat,

    /// <summary>The weighted sum of the updates, cut to a rank by singular values.</summary>
    Svd,

    /// <summary>TIES on the factors.</summary>
    Ties,

    /// <summary>TIES on the updates, cut to a rank.</summary>
    TiesSvd,

    /// <summary>DARE on the factors.</summary>
    DareLinear,

    /// <summary>DARE, then TIES's election of signs, on the factors.</summary>
    DareTies,

    /// <summary>DARE on the updates, cut to a rank.</summary>
    DareLinearSvd,

    /// <summary>DARE and election on the updates, cut to a rank.</summary>
    DareTiesSvd,

    /// <summary>The largest entries of the factors.</summary>
    MagnitudePrune,

    /// <summary>The largest entries of the updates, cut to a rank.</summary>
    MagnitudePruneSvd,
}

/// <summary>Settings of <see cref="AdapterCombiner"/>.</summary>
public sealed record CombineOptions
{
    /// <summary>How; default <see cref="CombineMethod.Linear"/>.</summary>
    public CombineMethod Method { get; init; } = CombineMethod.Linear;

    /// <summary>Share of the entries kept by the methods that prune, 0 to 1; null is an error for them.</summary>
    public double? Density { get; init; }

    /// <summary>Rank of the result for the methods that cut; null for the largest of the adapters'.</summary>
    public int? Rank { get; init; }

    /// <summary>Seed of DARE's random pruning; default 0.</summary>
    public long Seed { get; init; }

    /// <summary>Whether TIES elects signs by number instead of by sum; default false.</summary>
    public bool ByFrequency { get; init; }

    /// <summary>Combine adapters that were made on different bases with a note instead of an error; default false.</summary>
    public bool AcceptOtherBases { get; init; }

    /// <summary>Whether the method prunes, so that a density is needed.</summary>
    public bool Prunes => Method is not (CombineMethod.Linear or CombineMethod.Cat or CombineMethod.Svd);

    /// <summary>Whether the method works on whole updates and cuts the result to a rank.</summary>
    public bool Cuts => Method is CombineMethod.Svd or CombineMethod.TiesSvd or CombineMethod.DareLinearSvd or CombineMethod.DareTiesSvd or CombineMethod.MagnitudePruneSvd;

    /// <summary>Checks everything and names every fault.</summary>
    public void Validate()
    {
        var faults = new List<string>();
        if (Prunes && Density is null)
        {
            faults.Add($"density: {NameOf(Method)} needs one from 0 to 1, e.g. --density 0.5");
        }

        if (Density is < 0 or > 1 or double.NaN)
        {
            faults.Add($"density: expected 0 to 1, found {Density}");
        }

        if (Rank is < 1)
        {
            faults.Add($"rank: expected at least 1, found {Rank}");
        }

        if (Rank is not null && !Cuts)
        {
            faults.Add($"rank: only the svd methods cut to a rank; {NameOf(Method)} has the rank that follows from the adapters");
        }

        if (faults.Count > 0)
        {
            throw new LoraSharpException($"The combination's settings can't be used:\n  {string.Join("\n  ", faults)}");
        }
    }

    /// <summary>The method of a name such as <c>ties-svd</c> or PEFT's <c>ties_svd</c>.</summary>
    public static CombineMethod Parse(string name)
    {
        ArgumentNullException.ThrowIfNull(name);
        foreach (CombineMethod method in Enum.GetValues<CombineMethod>())
        {
            if (NameOf(method) == name.Replace('_', '-'))
            {
                return method;
            }
        }

        throw new LoraSharpException($"There is no method '{name}'. Methods: {string.Join(", ", Enum.GetValues<CombineMethod>().Select(NameOf))}.");
    }

    /// <summary>The method's name on the command line.</summary>
    public static string NameOf(CombineMethod method) =>
        string.Concat(method.ToString().Select((c, i) => char.IsUpper(c) && i > 0 ? "-" + char.ToLowerInvariant(c) : char.ToLowerInvariant(c).ToString()));
}
