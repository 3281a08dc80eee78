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
public sealed record MergeProbeReport(double MaxLogitDifference, double MaxLogit, double MaxTopProbabilityDifference, int TopTokenChanges, double AdapterEffect, int Positions, ScalarType ComputeType);

/// <summary>
/// Runs base + adapter and the merged model on the same random tokens, one after the other, and compares the logits.
/// </summary>
public static class MergeProbe
{
    /// <summary>Measures.</summary>
    /// <param name="model">The base.</param>
    /// <param name="adapters">What was merged.</param>
    /// <param name="merged">The result.</param>
    /// <param name="tokens">Tokens in two rows.</param>
    /// <param name="unmerge">The adapters were taken out.</param>
    /// <param name="seed">Of the tokens.</param>
    public static MergeProbeReport Measure(ModelSource model, IReadOnlyList<MergedAdapter> adapters, ModelSource merged, int tokens = 64, bool unmerge = false, long seed = 0)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(adapters);
        ArgumentNullException.ThrowIfNull(merged);
        NativeRuntime.EnsureLoaded();
        ScalarType dtype = ComputeType(model);
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        using var generator = new Generator((ulong)seed, CPU);
        Tensor plain, adapted;
        Tensor ids;
        using (var set = new AdapterSet())
        using (CausalLanguageModel network = ModelLoader.Load(model, new LoraLinearFactory(set, new DenseLinearFactory()), dtype, CPU))
        {
            ids = randint(network.Config.VocabularySize, [2, Math.Max(1, tokens / 2)], ScalarType.Int64, generator: generator);
            plain = Logits(network, ids);
            set.Select([.. adapters.Select((a, i) => (set.Load(a.Folder, $"adapter{i}").Name, unmerge ? -a.Weight : a.Weight))]);
            adapted = Logits(network, ids);
        }

        using (CausalLanguageModel network = ModelLoader.Load(merged, new DenseLinearFactory(), dtype, CPU))
        {
            Tensor result = Logits(network, ids);
            Tensor top = adapted.argmax(-1, keepdim: true);
            Tensor probability = adapted.softmax(-1).gather(-1, top) - result.softmax(-1).gather(-1, top);
            return new(
                (adapted - result).abs().max().item<float>(),
                adapted.abs().max().item<float>(),
                probability.abs().max().item<float>(),
                (int)top.ne(result.argmax(-1, keepdim: true)).sum().item<long>(),
                (adapted - plain).abs().max().item<float>(),
                (int)ids.NumberOfElements,
                dtype);
        }
    }

    // float32 unless the copy that this needs for half-precision weights would fill the memory.
    private static ScalarType ComputeType(ModelSource model)
    {
        long stored = model.Tensors.Tensors.Values.Sum(t => t.ByteCount);
        long needed = model.Tensors.Tensors.Values.Sum(t => t.Count * 4);
        return needed > stored && needed > GC.GetGCMemoryInfo().TotalAvailableMemoryBytes / 3 ? ScalarType.BFloat16 : ScalarType.Float32;
    }

    private static Tensor Logits(CausalLanguageModel model, Tensor ids)
    {
        using var attention = new PaddedAttention();
        using Tensor positions = arange(ids.shape[1], ScalarType.Int64).unsqueeze(0);
        using Tensor logits = model.Forward(ids, positions, attention);
        return logits.to(ScalarType.Float32, copy: true);
    }
}
