using LoraSharp.Adapters;
using LoraSharp.Adapters.Merging;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Layers;
using LoraSharp.Models;
using LoraSharp.Tensors;
using static TorchSharp.torch;

namespace LoraSharp;

/// <summary>What a merge did to the answers, measured.</summary>
/// <param name="MaxLogitDifference">Largest |logit with the adapter − logit of the merged model|.</param>
/// <param name="MaxLogit">Largest |logit| with the adapter, to judge the difference by.</param>
/// <param name="MaxTopProbabilityDifference">Largest change of the probability of the token that is most probable with the adapter.</param>
/// <param name="TopTokenChanges">Positions whose most probable token is another one.</param>
/// <param name="AdapterEffect">Largest |logit with the adapter − logit of the base|: 0 means that the adapter does nothing.</param>
/// <param name="Positions">Positions that were compared.</param>
/// <param name="ComputeType">Type it was computed in.</param>
/// <param name="Warnings">What loading the adapters had to say.</param>
public sealed record MergeProbeReport(double MaxLogitDifference, double MaxLogit, double MaxTopProbabilityDifference, int TopTokenChanges, double AdapterEffect, int Positions, ScalarType ComputeType, IReadOnlyList<string> Warnings);

/// <summary>Settings of <see cref="MergeProbe"/>.</summary>
public sealed record MergeProbeOptions
{
    /// <summary>Tokens in two rows; default 64.</summary>
    public int Tokens { get; init; } = 64;

    /// <summary>The adapters were taken out, so they count negative; default false.</summary>
    public bool Unmerge { get; init; }

    /// <summary>Seed of the random tokens; default 0.</summary>
    public long Seed { get; init; }

    /// <summary>Treat the models as this family; null for what <c>config.json</c> says.</summary>
    public string? ModelType { get; init; }

    /// <summary>float32 or bfloat16; null: float32, unless that would fill the memory.</summary>
    public string? DType { get; init; }

    /// <summary>cpu, cuda, cuda:n, or auto; default auto.</summary>
    public string Device { get; init; } = "auto";
}

/// <summary>
/// Runs base + adapter and the merged model on the same random tokens, one after the other, and compares the logits.
/// </summary>
public static class MergeProbe
{
    /// <summary>Measures.</summary>
    /// <param name="model">The base.</param>
    /// <param name="adapters">What was merged.</param>
    /// <param name="merged">The result.</param>
    /// <param name="options">How; null for the defaults.</param>
    public static MergeProbeReport Measure(ModelSource model, IReadOnlyList<MergedAdapter> adapters, ModelSource merged, MergeProbeOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(adapters);
        ArgumentNullException.ThrowIfNull(merged);
        NativeRuntime.EnsureLoaded();
        options ??= new MergeProbeOptions();
        Device device = EngineSetup.FindDevice(options.Device);
        ScalarType dtype = options.DType switch { "float32" => ScalarType.Float32, "bfloat16" => ScalarType.BFloat16, _ => ComputeType(model) };
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        Tensor plain, adapted;
        Tensor ids;
        string[] warnings;
        // Merging has judged the base; what an adapter is taken out of is never the one it was made on.
        using (var set = new AdapterSet { AcceptOtherBases = true })
        using (CausalLanguageModel network = ModelLoader.Load(model, new LoraLinearFactory(set, new DenseLinearFactory()), dtype, device, options.ModelType))
        {
            ids = ProbePass.Ids(network, options.Tokens, options.Seed);
            plain = ProbePass.Logits(network, ids);
            set.Select([.. adapters.Select((a, i) => (set.Load(a.Folder, $"adapter{i}").Name, options.Unmerge ? -a.Weight : a.Weight))]);
            adapted = ProbePass.Logits(network, ids);
            warnings = [.. set.Adapters.Values.SelectMany(a => a.Warnings)];
        }

        using (CausalLanguageModel network = ModelLoader.Load(merged, new DenseLinearFactory(), dtype, device, options.ModelType))
        {
            Tensor result = ProbePass.Logits(network, ids);
            Tensor top = adapted.argmax(-1, keepdim: true);
            Tensor probability = adapted.softmax(-1).gather(-1, top) - result.softmax(-1).gather(-1, top);
            return new(
                (adapted - result).abs().max().item<float>(),
                adapted.abs().max().item<float>(),
                probability.abs().max().item<float>(),
                (int)top.ne(result.argmax(-1, keepdim: true)).sum().item<long>(),
                (adapted - plain).abs().max().item<float>(),
                (int)ids.NumberOfElements,
                dtype,
                warnings);
        }
    }

    // float32 unless the copy that this needs for half-precision weights would fill the memory.
    private static ScalarType ComputeType(ModelSource model)
    {
        long stored = model.Tensors.Tensors.Values.Sum(t => t.ByteCount);
        long needed = model.Tensors.Tensors.Values.Sum(t => t.Count * 4);
        return needed > stored && needed > GC.GetGCMemoryInfo().TotalAvailableMemoryBytes / 3 ? ScalarType.BFloat16 : ScalarType.Float32;
    }
}
