using System.Globalization;
using LoraSharp.Formats;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Layers;
using LoraSharp.Tensors;
using TorchSharp;
using static TorchSharp.torch;

namespace LoraSharp.Models;

/// <summary>Builds a model from a checkpoint.</summary>
public static class ModelLoader
{
    // Buffers that older versions of transformers saved beside the weights; they follow from the configuration.
    private static readonly string[] Buffers = [".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias", "embed_positions.inv_freq"];

    /// <summary>Builds the model that <c>config.json</c> describes, with its weights.</summary>
    /// <param name="source">Configuration and tensors; must outlive the model.</param>
    /// <param name="factory">Makes its layers: dense, 4-bit, adapted.</param>
    /// <param name="dtype">Compute type: float32 or bfloat16 (float16 on a GPU).</param>
    /// <param name="device">Where it computes.</param>
    /// <param name="modelType">Treat it as this family; null: what <c>model_type</c> says.</param>
    /// <exception cref="LoraSharpException">Unknown family; configuration or tensors do not fit (all faults are listed).</exception>
    public static CausalLanguageModel Load(ModelSource source, ILinearFactory factory, ScalarType dtype, Device device, string? modelType = null)
    {
        ArgumentNullException.ThrowIfNull(source);
        ArgumentNullException.ThrowIfNull(factory);
        ArgumentNullException.ThrowIfNull(device);
        NativeRuntime.EnsureLoaded();
        DecoderFamilies.ThrowIfUnknown(source, modelType);
        DecoderConfig config = DecoderConfig.Read(source.Config, source.Location, modelType);
        ITensorSource tensors = PrefixedTensors.Over(source.Tensors, config.Names);
        using var weights = new WeightReader(tensors, dtype, device);
        using var frozen = no_grad();
        string head = config.Names.Head + ".weight";
        bool tied = config.TieEmbeddings ?? !weights.Has(head);
        if (tied)
        {
            weights.Ignore(head);
        }

        var model = new CausalLanguageModel(config, tied, factory, weights);
        try
        {
            weights.ThrowIfFaulty(name => MayRemain(name, config));
            return model;
        }
        catch
        {
            model.Dispose();
            throw;
        }
    }

    /// <summary>How many tensors are missing, misshapen or left over when this configuration is tried; reads no weights.</summary>
    internal static int CountFaults(ModelSource source, DecoderConfig config)
    {
        ITensorSource tensors = PrefixedTensors.Over(source.Tensors, config.Names);
        using var weights = new WeightReader(tensors, ScalarType.Float32, new Device(DeviceType.META));
        using var frozen = no_grad();
        string head = config.Names.Head + ".weight";
        bool tied = config.TieEmbeddings ?? !weights.Has(head);
        if (tied)
        {
            weights.Ignore(head);
        }

        using var model = new CausalLanguageModel(config, tied, new DenseLinearFactory(), weights);
        return weights.CountFaults(name => MayRemain(name, config));
    }

    private static bool MayRemain(string name, DecoderConfig config)
    {
        if (Array.Exists(Buffers, b => name.EndsWith(b, StringComparison.Ordinal)))
        {
            return true;
        }

        // DeepSeek-V3 ships layers for multi-token prediction after the decoder's own; plain generation has no use for them.
        string layers = config.Names.Layers + ".";
        return config.Attention.Latent is not null && name.StartsWith(layers, StringComparison.Ordinal)
            && int.TryParse(name.AsSpan(layers.Length).ToString().Split('.')[0], NumberStyles.None, CultureInfo.InvariantCulture, out int layer)
            && layer >= config.Layers.Count;
    }
}
