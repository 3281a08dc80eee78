using LoraSharp.Formats;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Layers;
using LoraSharp.Quantization;
using LoraSharp.Tensors;
using LoraSharp.Tensors.Interop;
using static TorchSharp.torch;

namespace LoraSharp;

/// <summary>
/// A dense checkpoint as QLoRA's training sees it: every matrix that would be in 4 bits is rounded to them and
/// dequantised again when it is read, the rest is as it was. An adapter that was trained on the rounded base is at home
/// in this one, not in the original.
/// </summary>
public sealed unsafe class FourBitRounding : ITensorSource
{
    private readonly ModelSource _source;
    private readonly QuantizationOptions _options;
    private readonly Dictionary<string, bool> _transposed;

    private FourBitRounding(ModelSource source, QuantizationOptions options, Dictionary<string, bool> transposed)
    {
        _source = source;
        _options = options;
        _transposed = transposed;
    }

    /// <inheritdoc/>
    public string Location => _source.Tensors.Location;

    /// <inheritdoc/>
    public IReadOnlyDictionary<string, TensorInfo> Tensors => _source.Tensors.Tensors;

    /// <summary>The model with its weights rounded; owns <paramref name="source"/>.</summary>
    /// <param name="source">A dense model.</param>
    /// <param name="options">How it is rounded.</param>
    /// <param name="modelType">Treat the model as this family; null: what it says.</param>
    /// <exception cref="LoraSharpException">No linear layer is left to be rounded.</exception>
    public static ModelSource Of(ModelSource source, QuantizationOptions options, string? modelType = null)
    {
        ArgumentNullException.ThrowIfNull(source);
        ArgumentNullException.ThrowIfNull(options);
        options.Validate();
        Dictionary<LinearSpec, string> names = CheckpointQuantizer.QuantizedNames(source, CheckpointQuantizer.LinearLayers(source, modelType), options);
        return names.Count == 0
            ? throw new LoraSharpException($"{source.Location}: no linear layer is left to be quantised. Check the skipped modules.")
            : new ModelSource(source.Name, source.Location, source.Config, new FourBitRounding(source, options, names.ToDictionary(n => n.Value, n => n.Key.IsConv1D, StringComparer.Ordinal)));
    }

    /// <inheritdoc/>
    public TensorData Read(string name)
    {
        TensorData data = _source.Tensors.Read(name);
        if (!_transposed.TryGetValue(name, out bool transposed))
        {
            return data;
        }

        NativeRuntime.EnsureLoaded();
        using var none = no_grad();
        using var scope = NewDisposeScope();
        Tensor stored = TensorBytes.ToTensor(data, null, CPU);
        using FourBitWeight weight = FourBitWeight.Quantize(transposed ? stored.t() : stored, name, _options, CPU);
        Tensor rounded = weight.Dequantize(weight.DType);
        Tensor laid = transposed ? rounded.t().contiguous() : rounded;
        byte[] bytes = GC.AllocateUninitializedArray<byte>(checked((int)data.Info.ByteCount));
        new ReadOnlySpan<byte>((void*)AtenTensor.DataPointer(laid), bytes.Length).CopyTo(bytes);
        TensorBytes.ReleasePages(data);
        return new TensorData(data.Info, bytes);
    }

    /// <inheritdoc/>
    public void Dispose() => _source.Dispose();
}
