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
        bool tied = IsTied(config, weights);
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
        bool tied = IsTied(config, weights);
        using var model = new CausalLanguageModel(config, tied, new DenseLinearFactory(), weights);
        return weights.CountFaults(name => MayRemain(name, config));
    }

    // As transformers 5: a checkpoint that has both matrices, with different values, is not tied whatever its configuration says.
    private static bool IsTied(DecoderConfig config, WeightReader weights)
    {
        string head = config.Names.Head + ".weight", embedding = config.Names.Embedding + ".weight";
        if (!weights.Has(head))
        {
            return config.TieEmbeddings ?? true;
        }

        if (config.TieEmbeddings != true || (weights.Has(embedding) && !AreEqual(weights.Source, head, embedding)))
        {
            return false;
        }

        weights.Ignore(head);
        return true;
    }

    private static bool AreEqual(ITensorSource source, string a, string b)
    {
        const int Piece = 1 << 20;
        TensorInfo first = source.Tensors[a], second = source.Tensors[b];
        if (first.Type != second.Type || !first.Shape.SequenceEqual(second.Shape))
        {
            return false;
        }

        TensorData left = source.Read(a), right = source.Read(b);
        for (long at = 0; at < first.ByteCount; at += Piece)
        {
            int length = (int)Math.Min(Piece, first.ByteCount - at);
            if (!left.Slice(at, length).SequenceEqual(right.Slice(at, length)))
            {
                return false;
            }
        }

        return true;
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
