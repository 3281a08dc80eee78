namespace LoraSharp.Formats.Peft;

/// <summary>
/// PEFT's <c>target_parameters</c>: LoRA on tensors that are no layer's weight, such as stacked experts. PEFT wraps the
/// module that holds the tensor; several tensors of one module become wrappers in wrappers, in the order in which
/// transformers declares them, and a key tells which by its depth of <c>base_layer</c>: the last declared is outermost.
/// </summary>
public static class TargetParameters
{
    private const string Wrapped = ".base_layer";

    // The order of declaration in transformers' modules of experts, and of any module with weight and bias.
    private static readonly string[] Declared = ["gate_up_proj", "gate_up_proj_bias", "down_proj", "down_proj_bias", "weight", "bias"];

    /// <summary>Whether a tensor is a target: an entry in full, or its ending after a dot.</summary>
    /// <param name="config">The configuration.</param>
    /// <param name="parameter">Full name of the tensor, e.g. <c>model.layers.0.mlp.experts.gate_up_proj</c>.</param>
    public static bool IsTarget(PeftConfig config, string parameter)
    {
        ArgumentNullException.ThrowIfNull(config);
        ArgumentNullException.ThrowIfNull(parameter);
        return config.TargetParameters?.Any(t => parameter == t || parameter.EndsWith("." + t, StringComparison.Ordinal)) == true;
    }

    /// <summary>The key of a factor of a tensor, given all targets of the model.</summary>
    /// <param name="config">The configuration.</param>
    /// <param name="parameter">Full name of the tensor.</param>
    /// <param name="part">A or B of a stack.</param>
    public static string KeyOf(PeftConfig config, string parameter, AdapterPart part)
    {
        ArgumentNullException.ThrowIfNull(config);
        ArgumentNullException.ThrowIfNull(parameter);
        (string module, string name) = Split(parameter);
        List<string> names = NamesOf(config, module);
        string depth = string.Concat(Enumerable.Repeat(Wrapped, names.Count - 1 - names.IndexOf(name)));
        return AdapterTensor.KeyOf(module + depth, part);
    }

    /// <summary>What a factor in a file belongs to, or the tensor as it is when no target parameter holds it.</summary>
    internal static AdapterTensor Resolve(PeftConfig config, AdapterTensor tensor, List<string> faults)
    {
        if (config.TargetParameters is not { Count: > 0 } || tensor.Part is not (AdapterPart.LoraA or AdapterPart.LoraB))
        {
            return tensor;
        }

        int depth = 0;
        string module = tensor.Module;
        for (; module.EndsWith(Wrapped, StringComparison.Ordinal); depth++)
        {
            module = module[..^Wrapped.Length];
        }

        List<string> names = NamesOf(config, module);
        if (names.Count <= depth)
        {
            return tensor;
        }

        if (names.Count > 1 && names.Except(Declared, StringComparer.Ordinal).Any())
        {
            faults.Add($"{tensor.Key}: target_parameters names {string.Join(", ", names)} of {module}, and which of them this is depends on an order that is not known.");
            return tensor;
        }

        string parameter = $"{module}.{names[names.Count - 1 - depth]}";
        int rank = PeftMatching.RankOf(config, parameter);
        // The weight of a layer of its own has factors as any layer.
        return tensor.Info.Shape.Count == 2 && names is ["weight"] && tensor.Info.Shape[tensor.Part == AdapterPart.LoraA ? 0 : 1] == rank
            ? tensor
            : tensor with { Module = parameter, Part = tensor.Part == AdapterPart.LoraA ? AdapterPart.StackA : AdapterPart.StackB };
    }

    private static List<string> NamesOf(PeftConfig config, string module) =>
        [.. config.TargetParameters!.Select(t => Split(t).Name).Distinct(StringComparer.Ordinal).Where(n => IsTarget(config, $"{module}.{n}"))
            .OrderBy(n => Array.IndexOf(Declared, n)).ThenBy(n => n, StringComparer.Ordinal)];

    private static (string Module, string Name) Split(string parameter)
    {
        int dot = parameter.LastIndexOf('.');
        return (parameter[..Math.Max(0, dot)], parameter[(dot + 1)..]);
    }
}
