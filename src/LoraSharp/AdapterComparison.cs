using LoraSharp.Adapters;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Formats.Peft;
using LoraSharp.Layers;
using LoraSharp.Models;
using LoraSharp.Tensors;
using static TorchSharp.torch;

namespace LoraSharp;

/// <summary>Logits of one base under two adapters that should be the same.</summary>
/// <param name="MaxLogitDifference">Largest |difference| of logits.</param>
/// <param name="AdapterEffect">Largest |difference| between base and adapter, to judge it by.</param>
/// <param name="Positions">Positions compared.</param>
public sealed record AdapterComparison(double MaxLogitDifference, double AdapterEffect, int Positions)
{
    /// <summary>Runs the base once without and once with each adapter, on the same random tokens.</summary>
    /// <param name="model">The base.</param>
    /// <param name="first">One adapter.</param>
    /// <param name="second">The other.</param>
    /// <param name="options">Tokens, seed, device, type (default float32); null for the defaults.</param>
    public static AdapterComparison Measure(ModelSource model, AdapterFolder first, AdapterFolder second, MergeProbeOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(first);
        ArgumentNullException.ThrowIfNull(second);
        NativeRuntime.EnsureLoaded();
        options ??= new MergeProbeOptions();
        ScalarType dtype = options.DType == "bfloat16" ? ScalarType.BFloat16 : ScalarType.Float32;
        Device device = EngineSetup.FindDevice(options.Device);
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        using var set = new AdapterSet { AcceptOtherBases = true };
        using CausalLanguageModel network = ModelLoader.Load(model, new LoraLinearFactory(set, new DenseLinearFactory()), dtype, device, options.ModelType);
        Tensor ids = ProbePass.Ids(network, options.Tokens, options.Seed);
        set.Load(first, "first");
        set.Load(second, "second");
        set.SelectNone();
        Tensor plain = ProbePass.Logits(network, ids);
        set.Select("first");
        Tensor a = ProbePass.Logits(network, ids);
        set.Select("second");
        Tensor b = ProbePass.Logits(network, ids);
        return new((a - b).abs().max().item<float>(), (a - plain).abs().max().item<float>(), (int)ids.NumberOfElements);
    }
}
