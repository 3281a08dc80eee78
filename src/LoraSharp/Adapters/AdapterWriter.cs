using LoraSharp.Formats;
using LoraSharp.Formats.Peft;
using LoraSharp.Formats.Safetensors;
using LoraSharp.Tensors;
using static TorchSharp.torch;

namespace LoraSharp.Adapters;

/// <summary>
/// Writes an adapter as a folder that PEFT loads unchanged: <c>adapter_config.json</c> and
/// <c>adapter_model.safetensors</c>, each aside and then renamed.
/// </summary>
public static class AdapterWriter
{
    /// <summary>Writes the folder; existing files of these names are replaced.</summary>
    /// <param name="adapter">What to write. With anchors (PiSSA, OLoRA) it becomes a plain LoRA of twice the rank against the original base.</param>
    /// <param name="folder">Created where it does not exist.</param>
    /// <param name="fingerprint">Of the base, for the file's metadata.</param>
    /// <param name="dtype">Type of the tensors; PEFT writes float32.</param>
    /// <returns>The configuration as written.</returns>
    public static PeftConfig Write(LoraAdapter adapter, string folder, BaseFingerprint? fingerprint = null, ScalarType dtype = ScalarType.Float32)
    {
        ArgumentNullException.ThrowIfNull(adapter);
        Directory.CreateDirectory(folder);
        PeftConfig config = adapter.HasAnchors ? Plain(adapter.Config) : adapter.Config;
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        var tensors = new List<TensorToWrite>();
        foreach (AdapterModule module in adapter.Modules.Values)
        {
            foreach ((string key, AdapterPart part, Tensor value) in module.Parts)
            {
                Tensor whole = (module.AnchorA, part) switch
                {
                    ({ } anchor, AdapterPart.LoraA) => cat([value, anchor], 0),
                    (not null, AdapterPart.LoraB) => cat([value, module.AnchorB!.neg()], 1),
                    (_, AdapterPart.BaseWeight or AdapterPart.Saved) when module.IsConv1D && value.dim() == 2 => value.t(),
                    _ => value,
                };
                tensors.Add(ToWrite(key, whole, dtype));
            }
        }

        foreach ((string name, Tensor value) in adapter.Parameters)
        {
            tensors.Add(ToWrite(AdapterTensor.Prefix + name, adapter.Live.GetValueOrDefault(name, value), dtype));
        }

        var metadata = new Dictionary<string, string>(fingerprint?.ToMetadata() ?? [], StringComparer.Ordinal) { ["format"] = "pt" };
        config.Write(folder);
        SafetensorsWriter.Write(Path.Combine(folder, AdapterFolder.WeightsName), tensors, metadata);
        return config;
    }

    /// <summary>
    /// The configuration of B·A − B0·A0 as [B, −B0]·[A; A0]: rank doubled and the scaling kept, as PEFT's
    /// <c>path_initial_model_for_weight_conversion</c> does it.
    /// </summary>
    internal static PeftConfig Plain(PeftConfig config)
    {
        double factor = config.UseRsLora ? Math.Sqrt(2) : 2;
        return config with
        {
            InitLoraWeights = "true",
            Rank = config.Rank * 2,
            Alpha = config.Alpha * factor,
            RankPattern = config.RankPattern.ToDictionary(p => p.Key, p => p.Value * 2, StringComparer.Ordinal),
            AlphaPattern = config.AlphaPattern.ToDictionary(p => p.Key, p => p.Value * factor, StringComparer.Ordinal),
        };
    }

    private static TensorToWrite ToWrite(string key, Tensor value, ScalarType dtype)
    {
        Tensor stored = value.is_floating_point() ? value.detach().to(dtype) : value.detach();
        return new(new TensorInfo(key, stored.dtype.ToElementType(), stored.shape), stream => TensorBytes.CopyTo(stored, stream));
    }
}
