using System.Runtime.InteropServices;
using System.Text.Json;
using System.Text.Json.Nodes;
using LoraSharp.Formats;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Tensors;
using LoraSharp.Tensors.Interop;
using static TorchSharp.torch;

namespace LoraSharp.Quantization;

/// <summary>
/// One 4-bit matrix as a bitsandbytes checkpoint stores it: packed codes <c>NAME</c>, <c>NAME.absmax</c>,
/// <c>NAME.quant_map</c>, with double quantisation <c>NAME.nested_absmax</c> and <c>NAME.nested_quant_map</c>, and the
/// rest as JSON in <c>NAME.quant_state.bitsandbytes__nf4</c>.
/// </summary>
internal sealed unsafe class FourBitTensors
{
    public const string StateMarker = ".quant_state.bitsandbytes__";
    private static readonly string[] Parts = [".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map"];
    private readonly ITensorSource _source;

    private FourBitTensors(ITensorSource source, string name) => (_source, Name) = (source, name);

    /// <summary>Name of the matrix, with <c>.weight</c>.</summary>
    public string Name { get; }

    public FourBitCodebook Codebook { get; private init; } = FourBitCodebook.Nf4;

    public int BlockSize { get; private init; }

    public long Rows { get; private init; }

    public long Columns { get; private init; }

    public ElementType Type { get; private init; }

    public float? NestedOffset { get; private init; }

    /// <summary>Names of the tensors that belong to the matrix besides itself.</summary>
    public IEnumerable<string> PartNames => [.. Parts.Select(p => Name + p).Where(_source.Tensors.ContainsKey), $"{Name}{StateMarker}{Codebook.Name}"];

    /// <summary>Reads and checks a matrix; null, with the reason in <paramref name="faults"/>, when something is wrong.</summary>
    public static FourBitTensors? Parse(ITensorSource source, string stateName, List<string> faults)
    {
        int marker = stateName.IndexOf(StateMarker, StringComparison.Ordinal);
        string name = stateName[..marker];
        string type = stateName[(marker + StateMarker.Length)..];
        int before = faults.Count;
        JsonObject state = ParseState(source, stateName, faults);
        FourBitCodebook codebook = type == "fp4" ? FourBitCodebook.Fp4 : FourBitCodebook.Nf4;
        if (type is not ("nf4" or "fp4") || Text(state, "quant_type") != type)
        {
            faults.Add($"{stateName}: quant_type '{Text(state, "quant_type")}', expected nf4 or fp4 as the tensor's name says");
        }

        long blockSize = Number(state, "blocksize");
        if (!FourBitCodebook.IsBlockSize(blockSize))
        {
            faults.Add($"{stateName}: blocksize {blockSize}, expected a power of two from 32 to 4096");
        }

        ElementType? dtype = Text(state, "dtype") switch { "float32" => ElementType.F32, "bfloat16" => ElementType.BF16, "float16" => ElementType.F16, _ => null };
        if (dtype is null)
        {
            faults.Add($"{stateName}: dtype '{Text(state, "dtype")}', expected float32, bfloat16 or float16");
        }

        long[] shape = state["shape"] is JsonArray sizes ? [.. sizes.Select(s => s is JsonValue v && v.TryGetValue(out long n) ? n : -1)] : [];
        if (shape.Length != 2 || shape.Any(s => s is <= 0 or > int.MaxValue))
        {
            faults.Add($"{stateName}: shape {state["shape"]?.ToJsonString() ?? "missing"}, expected two positive sizes");
        }

        if (faults.Count > before)
        {
            return null;
        }

        long count = shape[0] * shape[1];
        long blocks = FourBitReference.Blocks(count, (int)blockSize);
        bool nested = source.Tensors.ContainsKey(name + ".nested_absmax");
        float? offset = nested && state["nested_offset"] is JsonValue value && value.TryGetValue(out double number) ? (float)number : null;
        Expect(source, name, null, FourBitReference.PackedBytes(count), faults);
        Expect(source, name + ".absmax", nested ? ElementType.U8 : ElementType.F32, blocks, faults);
        ExpectTable(source, name + ".quant_map", codebook.Values.AsSpan(), faults);
        if (nested)
        {
            Expect(source, name + ".nested_absmax", ElementType.F32, DoubleQuantization.Blocks(blocks), faults);
            ExpectTable(source, name + ".nested_quant_map", DynamicMap.Signed.Table, faults);
            if (offset is null || Number(state, "nested_blocksize") != DoubleQuantization.BlockSize)
            {
                faults.Add($"{stateName}: expected nested_offset, a number, and nested_blocksize {DoubleQuantization.BlockSize}");
            }
        }

        return faults.Count > before ? null : new FourBitTensors(source, name)
        {
            Codebook = codebook,
            BlockSize = (int)blockSize,
            Rows = shape[0],
            Columns = shape[1],
            Type = dtype!.Value,
            NestedOffset = offset,
        };
    }

    /// <summary>The matrix as it is, laid over the mapped file where it stays on the CPU.</summary>
    public FourBitWeight Load(Device device)
    {
        TensorData packed = _source.Read(Name);
        var bytes = new TensorInfo(Name, ElementType.U8, [packed.Info.ByteCount, 1]);
        return new FourBitWeight(
            Codebook,
            BlockSize,
            Rows,
            Columns,
            Type.ToScalarType(),
            Kept(packed.IsMapped ? new TensorData(bytes, packed.MappedPointer) : new TensorData(bytes, packed.Owned!)),
            Kept(_source.Read(Name + ".absmax")),
            NestedOffset is null ? null : Kept(_source.Read(Name + ".nested_absmax")),
            NestedOffset ?? 0);

        Tensor Kept(TensorData data) => TensorBytes.ToTensor(data, null, device).DetachFromDisposeScope();
    }

    /// <summary>The matrix [f, k], or with <paramref name="transposed"/> [k, f], in the type it had before quantisation.</summary>
    public TensorData Dequantize(bool transposed)
    {
        using var scope = NewDisposeScope();
        using FourBitWeight weight = Load(CPU);
        Tensor dense = weight.Dequantize(weight.DType);
        dense = transposed ? dense.t().contiguous() : dense;
        byte[] bytes = new byte[checked(Rows * Columns * Type.Size())];
        new ReadOnlySpan<byte>((void*)AtenTensor.DataPointer(dense), bytes.Length).CopyTo(bytes);
        return new TensorData(new TensorInfo(Name, Type, [.. dense.shape]), bytes);
    }

    private static JsonObject ParseState(ITensorSource source, string name, List<string> faults)
    {
        TensorData data = source.Read(name);
        try
        {
            // It is a few hundred bytes; a hostile size is not read.
            if (data.Info is { Type: ElementType.U8, ByteCount: <= 65536 } && StrictJson.Parse(data.Slice(0, (int)data.Info.ByteCount)) is JsonObject state)
            {
                return state;
            }
        }
        catch (JsonException)
        {
            // Reported below.
        }

        faults.Add($"{name}: expected a JSON object in at most 65,536 bytes, found {data.Info.Type} {data.Info.ShapeText}");
        return [];
    }

    private static void Expect(ITensorSource source, string name, ElementType? type, long count, List<string> faults)
    {
        // The codes may be stored as any type (bnb_4bit_quant_storage): their bytes are what counts.
        if (!source.Tensors.TryGetValue(name, out TensorInfo? info) || (type is null ? info.ByteCount : info.Count) != count || (type ?? info.Type) != info.Type)
        {
            faults.Add($"{name}: expected {count} {(type is null ? "bytes" : $"values of {type}")}, found {(info is null ? "nothing" : $"{info.Type} {info.ShapeText}")}");
        }
    }

    private static void ExpectTable(ITensorSource source, string name, ReadOnlySpan<float> table, List<string> faults)
    {
        int before = faults.Count;
        Expect(source, name, ElementType.F32, table.Length, faults);
        if (faults.Count > before)
        {
            return;
        }

        ReadOnlySpan<float> found = MemoryMarshal.Cast<byte, float>(source.Read(name).Slice(0, table.Length * sizeof(float)));
        for (int i = 0; i < table.Length; i++)
        {
            if (!(Math.Abs(found[i] - table[i]) <= 1e-6f))
            {
                faults.Add($"{name}: value {i} is {found[i]}, expected {table[i]}: a table of another type");
                return;
            }
        }
    }

    private static string? Text(JsonObject state, string key) => state[key] is JsonValue value && value.TryGetValue(out string? text) ? text : null;

    private static long Number(JsonObject state, string key) => state[key] is JsonValue value && value.TryGetValue(out long number) ? number : -1;
}
