using LoraSharp.Adapters.Merging;
using LoraSharp.Formats;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Formats.Peft;
using LoraSharp.Tensors;
using static TorchSharp.torch;

namespace LoraSharp.Adapters;

/// <summary>What an adapter is to become.</summary>
public enum AdapterForm
{
    /// <summary>Plain LoRA with scaling alpha / r.</summary>
    Plain,

    /// <summary>Scaling alpha / √r (rsLoRA).</summary>
    RsLora,
}

/// <summary>Writes an adapter in another form where the update stays exactly what it was.</summary>
public static class AdapterConverter
{
    static AdapterConverter() => NativeRuntime.EnsureLoaded();

    /// <summary>Converts and writes a folder.</summary>
    /// <param name="adapter">The adapter.</param>
    /// <param name="output">Must not exist, or be empty.</param>
    /// <param name="form">The form; null keeps it.</param>
    /// <param name="dtype">Type of the tensors.</param>
    /// <param name="model">The base, needed for PiSSA and OLoRA only.</param>
    /// <returns>What was done.</returns>
    /// <exception cref="LoraSharpException">The form can't hold the adapter exactly.</exception>
    public static IReadOnlyList<string> Convert(AdapterFolder adapter, string output, AdapterForm? form, ScalarType dtype = ScalarType.Float32, ModelSource? model = null)
    {
        ArgumentNullException.ThrowIfNull(adapter);
        OutputFolder.RequireFree(output);
        var notes = new List<string>();
        PeftConfig config = adapter.Config;
        if (form is not null && config.UseDora)
        {
            throw new LoraSharpException($"{adapter.Location}: DoRA scales the rows of W + ΔW, which no low-rank update equals. Merge it into its base (lora merge); lora extract then approximates it as LoRA.");
        }

        using var scope = NewDisposeScope();
        using var grad = no_grad();
        var tensors = new List<(string Key, Tensor Value)>();
        CheckpointNames? names = model is null ? null : new(model);
        foreach (string path in AdapterReader.Modules(adapter))
        {
            using AdapterModule module = AdapterReader.Read(adapter, path);
            if (config.ChangesBase && module is { A: not null, IsEmbedding: false })
            {
                Anchor(adapter, module, names, model);
            }

            foreach (AdapterTensor part in adapter.Parts.Where(p => p.Module == path))
            {
                Tensor value = (part.Part, module.AnchorA) switch
                {
                    (AdapterPart.LoraA, { } anchor) => cat([module.A!, anchor], 0),
                    (AdapterPart.LoraB, not null) => cat([module.B!, module.AnchorB!.neg()], 1),
                    _ => AdapterReader.Float(adapter, part.Key),
                };
                tensors.Add((part.Key, value));
            }
        }

        if (config.ChangesBase)
        {
            notes.Add($"The factors of {config.InitLoraWeights} and what they took out of the base are now one plain LoRA of twice the rank against the original base.");
            config = AdapterWriter.Plain(config);
        }

        if (form is { } wanted && wanted == AdapterForm.RsLora != config.UseRsLora)
        {
            config = Rescale(adapter, config);
            notes.Add($"Alphas were changed so that {(config.UseRsLora ? "alpha / √r" : "alpha / r")} gives the same scaling.");
        }

        AdapterFolderWriter.Write(output, config, tensors, dtype, BaseFingerprint.Read(adapter.Metadata)?.ToMetadata());
        if (dtype is not ScalarType.Float32)
        {
            notes.Add($"Tensors are stored as {dtype}; PEFT loads them as float32.");
        }

        return notes;
    }

    // One alpha a rank keeps every scaling: alpha' = scaling · √r (or · r).
    private static PeftConfig Rescale(AdapterFolder adapter, PeftConfig config)
    {
        bool rs = !config.UseRsLora;
        double Alpha(string path) => PeftMatching.ScalingOf(config, path) * (rs ? Math.Sqrt(PeftMatching.RankOf(config, path)) : PeftMatching.RankOf(config, path));
        string[] paths = [.. adapter.Parts.Where(p => p.Part is AdapterPart.LoraA or AdapterPart.EmbeddingA or AdapterPart.StackA).Select(p => p.Module)];
        double common = config.Alpha * (rs ? 1 / Math.Sqrt(config.Rank) : Math.Sqrt(config.Rank));
        return config with
        {
            UseRsLora = rs,
            Alpha = common,
            AlphaPattern = paths.Where(p => Math.Abs(Alpha(p) - common) > 1e-12 * Math.Abs(common))
                .ToDictionary(p => p.Replace(".", "\\.", StringComparison.Ordinal), Alpha, StringComparer.Ordinal),
        };
    }

    private static void Anchor(AdapterFolder adapter, AdapterModule module, CheckpointNames? names, ModelSource? model)
    {
        string name = names?.Find(module.Name + ".weight")
            ?? throw new LoraSharpException($"{adapter.Location}: {adapter.Config.InitLoraWeights} took part of the base out, and how much has to be computed from it. Give the base with --model{(model is null ? string.Empty : $"; {model.Location} has no {module.Name}.weight")}.");
        using Tensor stored = TensorBytes.ToTensor(model!.Tensors.Read(name), null, CPU);
        using Tensor weight = stored.to(ScalarType.Float32);
        using Tensor oriented = names!.IsTransposed(module.Name) ? weight.t() : weight.alias();
        Residual.Anchor(module, oriented, adapter.Config.InitLoraWeights);
    }
}
