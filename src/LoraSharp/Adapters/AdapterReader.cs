using LoraSharp.Formats.Peft;
using LoraSharp.Tensors;
using static TorchSharp.torch;

namespace LoraSharp.Adapters;

/// <summary>
/// An adapter's modules one at a time from its folder, without a model: what merging, combining and inspecting need,
/// in the memory of one module.
/// </summary>
public static class AdapterReader
{
    static AdapterReader() => NativeRuntime.EnsureLoaded();

    /// <summary>Paths of the modules it has anything for, in order of the keys.</summary>
    public static IReadOnlyList<string> Modules(AdapterFolder folder)
    {
        ArgumentNullException.ThrowIfNull(folder);
        return [.. folder.Parts.Select(p => p.Module).Distinct(StringComparer.Ordinal)];
    }

    /// <summary>Everything it has for one module, float32 on the CPU, for the caller to dispose. Shapes are the file's: of a Conv1D saved in full [k, f].</summary>
    public static AdapterModule Read(AdapterFolder folder, string module)
    {
        ArgumentNullException.ThrowIfNull(folder);
        AdapterTensor[] parts = [.. folder.Parts.Where(p => p.Module == module)];
        bool isEmbedding = parts.Any(p => p.Part is AdapterPart.EmbeddingA or AdapterPart.TokenRows);
        AdapterTensor? stack = parts.FirstOrDefault(p => p.Part == AdapterPart.StackA);
        var result = new AdapterModule(module, isEmbedding) { Experts = stack is null ? 0 : (int)(stack.Info.Shape[0] / PeftMatching.RankOf(folder.Config, module)) };
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        foreach (AdapterTensor part in parts)
        {
            Tensor tensor = Float(folder, part.Key).DetachFromDisposeScope();
            switch (part.Part)
            {
                case AdapterPart.LoraA or AdapterPart.EmbeddingA or AdapterPart.StackA:
                    result.A = tensor;
                    result.Scaling = PeftMatching.ScalingOf(folder.Config, module, result.Rank);
                    break;
                case AdapterPart.LoraB or AdapterPart.EmbeddingB or AdapterPart.StackB:
                    result.B = tensor;
                    break;
                case AdapterPart.LoraBBias:
                    result.BBias = tensor;
                    break;
                case AdapterPart.Magnitude:
                    result.Magnitude = tensor;
                    break;
                case AdapterPart.TokenRows:
                    result.TokenRows = tensor;
                    result.TokenIds = TokenIds(folder, module).DetachFromDisposeScope();
                    break;
                case AdapterPart.BaseBias:
                    result.Bias = tensor;
                    break;
                case AdapterPart.Saved when part.Key.EndsWith(".bias", StringComparison.Ordinal):
                    result.Bias = tensor;
                    break;
                default:
                    result.Weight = tensor;
                    break;
            }
        }

        return result;
    }

    /// <summary>One tensor as float32 on the CPU in memory of its own.</summary>
    internal static Tensor Float(AdapterFolder folder, string key)
    {
        using Tensor stored = TensorBytes.ToTensor(folder.Tensors.Read(key), null, CPU);
        return stored.to(ScalarType.Float32, copy: true);
    }

    private static Tensor TokenIds(AdapterFolder folder, string module)
    {
        IReadOnlyDictionary<string, IReadOnlyList<long>> all = folder.Config.TrainableTokens ?? new Dictionary<string, IReadOnlyList<long>>();
        IReadOnlyList<long> ids = all.FirstOrDefault(p => module.EndsWith(p.Key, StringComparison.Ordinal)).Value
            ?? throw new Formats.MalformedFileException(folder.Location, $"has trained rows for {module}, which trainable_token_indices does not name.");
        return tensor([.. ids], ScalarType.Int64);
    }
}
