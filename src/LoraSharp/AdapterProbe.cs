using System.Globalization;
using LoraSharp.Adapters;
using LoraSharp.Layers;
using LoraSharp.Models;
using static TorchSharp.torch;

namespace LoraSharp;

/// <summary>What adapters do to a model's answers, measured on a few tokens: the proof that they are really there.</summary>
/// <param name="MaxLogitDifference">Largest |logit with the adapters − logit of the base|; 0 means that they do nothing.</param>
/// <param name="MaxLogit">Largest |logit| of the base, to judge the difference by.</param>
/// <param name="TopTokenChanges">Positions whose most probable token is another one.</param>
/// <param name="Positions">Positions that were compared.</param>
public sealed record AdapterProbe(double MaxLogitDifference, double MaxLogit, int TopTokenChanges, int Positions)
{
    /// <summary>Runs the model twice on the same random tokens, without and with the adapters; what was selected stays so.</summary>
    /// <param name="model">Built over <paramref name="adapters"/>.</param>
    /// <param name="adapters">The model's.</param>
    /// <param name="selection">Adapters and weights to look at.</param>
    /// <param name="tokens">In two rows; default 16.</param>
    /// <param name="seed">Of the tokens; default 0.</param>
    public static AdapterProbe Measure(CausalLanguageModel model, AdapterSet adapters, AdapterSelection selection, int tokens = 16, long seed = 0)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(adapters);
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        Tensor ids = ProbePass.Ids(model, tokens, seed);
        Tensor plain, adapted;
        using (adapters.Disable())
        {
            plain = ProbePass.Logits(model, ids);
        }

        using (adapters.Use(selection))
        {
            adapted = ProbePass.Logits(model, ids);
        }

        return new(
            (adapted - plain).abs().max().item<float>(),
            plain.abs().max().item<float>(),
            (int)adapted.argmax(-1).ne(plain.argmax(-1)).sum().item<long>(),
            (int)ids.NumberOfElements);
    }

    /// <inheritdoc/>
    public override string ToString() => string.Create(
        CultureInfo.InvariantCulture,
        $"changes logits by up to {MaxLogitDifference:G3} (the base's reach {MaxLogit:G3}); the top token is another one at {TopTokenChanges} of {Positions} positions");
}

/// <summary>A forward pass over random tokens, for comparisons of logits.</summary>
internal static class ProbePass
{
    /// <summary>Two rows of random ids on the model's device [2, tokens / 2].</summary>
    public static Tensor Ids(CausalLanguageModel model, int tokens, long seed)
    {
        using var generator = new Generator((ulong)seed, CPU);
        return randint(model.Config.VocabularySize, [2, Math.Max(1, tokens / 2)], ScalarType.Int64, generator: generator).to(model.Device);
    }

    /// <summary>Logits [b, s, v] in float32, for the caller to dispose.</summary>
    public static Tensor Logits(CausalLanguageModel model, Tensor ids)
    {
        using var attention = new PaddedAttention();
        using Tensor positions = arange(ids.shape[1], ScalarType.Int64, ids.device).unsqueeze(0);
        using Tensor logits = model.Forward(ids, positions, attention);
        return logits.to(ScalarType.Float32, copy: true);
    }
}
