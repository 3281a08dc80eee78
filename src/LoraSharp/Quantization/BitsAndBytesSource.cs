using System.Runtime.InteropServices;
using System.Text.Json.Nodes;
using LoraSharp.Formats;
using LoraSharp.Formats.HuggingFace;

namespace LoraSharp.Quantization;

/// <summary>
/// A bitsandbytes checkpoint seen as a plain one: every quantised matrix appears once, under its own name, and is
/// dequantised when it is read, so that whatever works on a model works on this. <see cref="Nf4LinearFactory"/> looks
/// behind it and takes 4-bit matrices as they are.
/// </summary>
public sealed class BitsAndBytesSource : ITensorSource
{
    private const string Int8Scale = ".SCB";
    private readonly ITensorSource _inner;
    private readonly bool _isConv1D;
    private readonly Dictionary<string, FourBitTensors> _fourBit = new(StringComparer.Ordinal);
    private readonly Dictionary<string, string> _int8 = new(StringComparer.Ordinal);

    private BitsAndBytesSource(ITensorSource inner, bool isConv1D)
    {
        _inner = inner;
        _isConv1D = isConv1D;
        var hidden = new HashSet<string>(StringComparer.Ordinal);
        var tensors = new Dictionary<string, TensorInfo>(StringComparer.Ordinal);
        List<string> faults = [];
        foreach (string name in inner.Tensors.Keys.Order(StringComparer.Ordinal))
        {
            if (name.Contains(FourBitTensors.StateMarker, StringComparison.Ordinal))
            {
                AddFourBit(name, tensors, hidden, faults);
            }
            else if (name.EndsWith(Int8Scale, StringComparison.Ordinal))
            {
                AddInt8(name, tensors, hidden, faults);
            }
        }

        if (faults.Count > 0)
        {
            throw new MalformedFileException(inner.Location, $"the quantised tensors are not what bitsandbytes writes ({faults.Count} faults):\n  {string.Join("\n  ", faults.Take(40))}");
        }

        foreach ((string name, TensorInfo info) in inner.Tensors)
        {
            if (!hidden.Contains(name))
            {
                tensors.TryAdd(name, info);
            }
        }

        Tensors = tensors;
    }

    /// <inheritdoc/>
    public string Location => _inner.Location;

    /// <summary>What is not quantised, and of each quantised matrix its dense form.</summary>
    public IReadOnlyDictionary<string, TensorInfo> Tensors { get; }

    /// <summary>Number of 4-bit matrices.</summary>
    public int FourBitCount => _fourBit.Count;

    /// <summary>Number of int8 matrices (LLM.int8).</summary>
    public int Int8Count => _int8.Count;

    /// <summary>
    /// The model with a bitsandbytes checkpoint seen as a plain one and <c>quantization_config</c> taken out of its
    /// configuration; any other model as it is. The result owns what <paramref name="source"/> owned.
    /// </summary>
    /// <exception cref="LoraSharpException">The checkpoint is quantised by another method, or its tensors are malformed.</exception>
    public static ModelSource Unwrap(ModelSource source)
    {
        ArgumentNullException.ThrowIfNull(source);
        if (source.Config["quantization_config"] is not JsonObject quantization)
        {
            return source;
        }

        string? method = quantization["quant_method"] is JsonValue value && value.TryGetValue(out string? text) ? text : null;
        if (method is not (null or "bitsandbytes"))
        {
            throw new LoraSharpException($"{source.Location}: the checkpoint is quantised by '{method}', which is not supported. Expected bitsandbytes (nf4, fp4, int8) or a checkpoint without quantization_config; GGUF files are read too.");
        }

        var config = (JsonObject)source.Config.DeepClone();
        config.Remove("quantization_config");
        bool isConv1D = config["model_type"] is JsonValue type && type.TryGetValue(out string? family) && family == "gpt2";
        return new ModelSource(source.Name, source.Location, config, new BitsAndBytesSource(source.Tensors, isConv1D));
    }

    /// <inheritdoc/>
    public TensorData Read(string name)
    {
        if (_fourBit.TryGetValue(name, out FourBitTensors? tensors))
        {
            return tensors.Dequantize(_isConv1D);
        }

        return _int8.TryGetValue(name, out string? scale) ? DequantizeInt8(_inner.Read(name), _inner.Read(scale), Tensors[name]) : _inner.Read(name);
    }

    /// <inheritdoc/>
    public void Dispose() => _inner.Dispose();

    internal FourBitTensors? FindFourBit(string name) => _fourBit.GetValueOrDefault(name);

    private void AddFourBit(string stateName, Dictionary<string, TensorInfo> tensors, HashSet<string> hidden, List<string> faults)
    {
        if (FourBitTensors.Parse(_inner, stateName, faults) is { } matrix)
        {
            _fourBit.Add(matrix.Name, matrix);
            hidden.UnionWith(matrix.PartNames);
            tensors.Add(matrix.Name, new TensorInfo(matrix.Name, matrix.Type, Dense(matrix.Rows, matrix.Columns)));
        }
    }

    private void AddInt8(string scaleName, Dictionary<string, TensorInfo> tensors, HashSet<string> hidden, List<string> faults)
    {
        string layer = scaleName[..^Int8Scale.Length];
        string name = layer + ".weight";
        TensorInfo scale = _inner.Tensors[scaleName];
        if (!_inner.Tensors.TryGetValue(name, out TensorInfo? info) || info.Type != ElementType.I8 || info.Shape.Count != 2
            || scale.Type != ElementType.F32 || scale.Count != info.Shape[0])
        {
            faults.Add($"{scaleName}: expected one F32 a row of the int8 matrix {name}, found {scale.Type} {scale.ShapeText} and {(info is null ? "no matrix" : $"{info.Type} {info.ShapeText}")}");
            return;
        }

        hidden.Add(scaleName);
        hidden.Add(layer + ".weight_format");
        _int8.Add(name, scaleName);
        tensors.Add(name, new TensorInfo(name, ElementType.F32, Dense(info.Shape[0], info.Shape[1])));
    }

    // transformers turns GPT-2's Conv1D [k, f] into a Linear [f, k] before it quantises.
    private long[] Dense(long rows, long columns) => _isConv1D ? [columns, rows] : [rows, columns];

    /// <summary>W = codes · scale / 127, row by row (Dettmers et al. 2022, "LLM.int8()", section 2), in single precision.</summary>
    private TensorData DequantizeInt8(TensorData codes, TensorData scales, TensorInfo dense)
    {
        const float Step = 1f / 127f;
        int rows = (int)codes.Info.Shape[0];
        int columns = (int)codes.Info.Shape[1];
        byte[] bytes = new byte[checked((long)rows * columns * sizeof(float))];
        Span<float> values = MemoryMarshal.Cast<byte, float>(bytes.AsSpan());
        for (int row = 0; row < rows; row++)
        {
            float scale = MemoryMarshal.Read<float>(scales.Slice(row * sizeof(float), sizeof(float)));
            ReadOnlySpan<sbyte> line = MemoryMarshal.Cast<byte, sbyte>(codes.Slice((long)row * columns, columns));
            for (int column = 0; column < columns; column++)
            {
                values[_isConv1D ? (column * rows) + row : (row * columns) + column] = line[column] * scale * Step;
            }
        }

        return new TensorData(dense, bytes);
    }
}
