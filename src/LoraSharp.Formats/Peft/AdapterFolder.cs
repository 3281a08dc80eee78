using LoraSharp.Formats.Safetensors;

namespace LoraSharp.Formats.Peft;

/// <summary>
/// A PEFT adapter folder: <c>adapter_config.json</c> and <c>adapter_model.safetensors</c>. Everything in it is checked
/// for what can be checked without a model: keys, pairs of factors, ranks.
/// </summary>
public sealed class AdapterFolder : IDisposable
{
    /// <summary>Name of the weights' file.</summary>
    public const string WeightsName = "adapter_model.safetensors";

    /// <summary>Creates an adapter source over tensors with PEFT's keys, wherever they come from; it owns <paramref name="tensors"/>.</summary>
    /// <exception cref="MalformedFileException">Keys that aren't an adapter's, factors without their counterpart, ranks that disagree.</exception>
    public AdapterFolder(string location, PeftConfig config, ITensorSource tensors)
    {
        ArgumentNullException.ThrowIfNull(tensors);
        Location = location;
        Config = config;
        Tensors = tensors;
        Parts = Sort(location, config, tensors);
    }

    /// <summary>The folder or file.</summary>
    public string Location { get; }

    /// <summary>The configuration.</summary>
    public PeftConfig Config { get; }

    /// <summary>The weights under the file's keys.</summary>
    public ITensorSource Tensors { get; }

    /// <summary>Metadata of the weights' file; empty where it has none.</summary>
    public IReadOnlyDictionary<string, string> Metadata => Tensors.Metadata;

    /// <summary>Each tensor's place in the model, in order of the keys.</summary>
    public IReadOnlyList<AdapterTensor> Parts { get; }

    /// <summary>Opens a folder.</summary>
    /// <exception cref="MalformedFileException">A file is missing or malformed.</exception>
    public static AdapterFolder Open(string folder)
    {
        ArgumentNullException.ThrowIfNull(folder);
        if (!Directory.Exists(folder))
        {
            throw new MalformedFileException(folder, File.Exists(folder)
                ? $"is a file. Expected an adapter folder with {PeftConfig.FileName} and {WeightsName}."
                : $"there is no such folder. Expected an adapter folder with {PeftConfig.FileName} and {WeightsName}.");
        }

        string configPath = Path.Combine(folder, PeftConfig.FileName);
        if (!File.Exists(configPath))
        {
            string[] below = [.. Directory.EnumerateDirectories(folder).Where(d => File.Exists(Path.Combine(d, PeftConfig.FileName))).Order(StringComparer.Ordinal)];
            string hint = below.Length > 0 ? $" Adapters lie in {string.Join(", ", below.Take(5))}: name one of them."
                : File.Exists(Path.Combine(folder, "config.json")) ? " It looks like a whole model: give it as --model."
                : string.Empty;
            throw new MalformedFileException(folder, $"has no {PeftConfig.FileName}, so it is not an adapter folder.{hint}");
        }

        PeftConfig config = PeftConfig.Read(configPath);
        string weights = Path.Combine(folder, WeightsName);
        if (!File.Exists(weights))
        {
            string pickle = Path.Combine(folder, "adapter_model.bin");
            throw File.Exists(pickle)
                ? new MalformedFileException(pickle, "is a Python pickle, which can run code when it is opened, and is not read. Convert it once with a PEFT of 0.7 or later: PeftModel.from_pretrained(base, folder).save_pretrained(folder) writes adapter_model.safetensors.")
                : new MalformedFileException(folder, $"has no {WeightsName}.");
        }

        SafetensorsFile file = SafetensorsFile.Open(weights);
        try
        {
            return new AdapterFolder(folder, config, file);
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    /// <summary>Whether a folder holds an adapter.</summary>
    public static bool IsAdapter(string folder) => File.Exists(Path.Combine(folder, PeftConfig.FileName));

    /// <inheritdoc/>
    public void Dispose() => Tensors.Dispose();

    private static List<AdapterTensor> Sort(string location, PeftConfig config, ITensorSource tensors)
    {
        var parts = new List<AdapterTensor>();
        var faults = new List<string>();
        foreach ((string key, TensorInfo info) in tensors.Tensors.OrderBy(t => t.Key, StringComparer.Ordinal))
        {
            if (AdapterTensor.Parse(key, info) is { } part)
            {
                parts.Add(TargetParameters.Resolve(config, part, faults));
            }
            else
            {
                faults.Add($"'{key}' {info.ShapeText} is no key of a LoRA adapter (expected base_model.model.MODULE.lora_A.weight and the like).");
            }
        }

        foreach (IGrouping<string, AdapterTensor> module in parts.GroupBy(p => p.Module, StringComparer.Ordinal))
        {
            Check(config, module.Key, module.ToDictionary(p => (p.Part, p.Part == AdapterPart.Saved ? p.Key : string.Empty)), faults);
        }

        if (parts.Count == 0 && faults.Count == 0)
        {
            faults.Add("there is not a single tensor: the adapter is empty.");
        }

        return faults.Count == 0
            ? parts
            : throw new MalformedFileException(location, $"the adapter's tensors can't be used ({faults.Count} faults):\n  {string.Join("\n  ", faults.Take(20))}{(faults.Count > 20 ? $"\n  ... and {faults.Count - 20} more" : string.Empty)}");
    }

    private static void Check(PeftConfig config, string module, Dictionary<(AdapterPart, string), AdapterTensor> parts, List<string> faults)
    {
        AdapterTensor? Find(AdapterPart part) => parts.GetValueOrDefault((part, string.Empty));

        void Pair(AdapterPart a, AdapterPart b)
        {
            (AdapterTensor? first, AdapterTensor? second) = (Find(a), Find(b));
            if (first is null != second is null)
            {
                faults.Add($"{module}: has {(first ?? second)!.Part} without {(first is null ? a : b)}.");
            }
            else if (first is not null && second is not null)
            {
                int rank = PeftMatching.RankOf(config, module);
                if (first.Info.Shape.Count != 2 || second.Info.Shape.Count != 2 || first.Info.Shape[0] != second.Info.Shape[1])
                {
                    faults.Add($"{module}: A {first.Info.ShapeText} and B {second.Info.ShapeText} can't be multiplied; expected [r, in] and [out, r].");
                }
                else if (a == AdapterPart.StackA && first.Info.Shape[0] % rank != 0)
                {
                    faults.Add($"{module}: A {first.Info.ShapeText} holds no whole number of experts of the rank {rank} that {PeftConfig.FileName} says.");
                }
                else if (a != AdapterPart.StackA && first.Info.Shape[0] != rank)
                {
                    faults.Add($"{module}: A {first.Info.ShapeText} has rank {first.Info.Shape[0]}, but {PeftConfig.FileName} says {rank}; the scaling would be wrong.");
                }
            }
        }

        Pair(AdapterPart.LoraA, AdapterPart.LoraB);
        Pair(AdapterPart.StackA, AdapterPart.StackB);
        Pair(AdapterPart.EmbeddingA, AdapterPart.EmbeddingB);
        bool hasFactors = Find(AdapterPart.LoraB) is not null || Find(AdapterPart.EmbeddingB) is not null;
        if (hasFactors && config.UseDora && Find(AdapterPart.Magnitude) is null)
        {
            faults.Add($"{module}: use_dora is true, but there is no lora_magnitude_vector.");
        }

        if (!config.UseDora && Find(AdapterPart.Magnitude) is not null)
        {
            faults.Add($"{module}: has a lora_magnitude_vector, but use_dora is false in {PeftConfig.FileName}.");
        }

        if (!hasFactors && Find(AdapterPart.LoraBBias) is not null)
        {
            faults.Add($"{module}: has a bias of B without B.");
        }

        foreach (AdapterTensor part in parts.Values)
        {
            if (part.Info.Type is not (ElementType.F32 or ElementType.F16 or ElementType.BF16 or ElementType.F64))
            {
                faults.Add($"{part.Key}: element type {part.Info.Type} is not a float; expected F32, BF16 or F16.");
            }
        }
    }
}
