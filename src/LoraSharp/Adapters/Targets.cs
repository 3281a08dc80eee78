using LoraSharp.Formats.Peft;

namespace LoraSharp.Adapters;

/// <summary>What <c>all-linear</c> means for a model.</summary>
internal static class Targets
{
    /// <summary>
    /// Every linear layer but the output head, routers and experts (which transformers 5 holds in stacks that PEFT does
    /// not count as linear layers), written as PEFT writes it.
    /// </summary>
    public static PeftConfig Resolve(AdapterSet set, PeftConfig config)
    {
        if (config.TargetModules is not { IsAllLinear: true })
        {
            return config;
        }

        string[] linears = [.. set.Linears.Values.Where(l => !l.Spec.IsOutputHead && !l.Spec.KeepPrecision && !l.Spec.Name.Contains(".experts.", StringComparison.Ordinal)).Select(l => l.Spec.Name)];
        var others = new HashSet<string>(set.Order.Except(linears, StringComparer.Ordinal), StringComparer.Ordinal);
        foreach (string path in set.Order.Concat(set.Parameters.Keys))
        {
            for (int dot = path.LastIndexOf('.'); dot > 0; dot = path.LastIndexOf('.', dot - 1))
            {
                others.Add(path[..dot]);
            }
        }

        others.ExceptWith(linears);
        return config with { TargetModules = ModuleSelector.List(PeftMatching.Condense(linears, others)) };
    }
}
