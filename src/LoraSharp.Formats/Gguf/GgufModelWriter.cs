using System.Text.Json.Nodes;
using LoraSharp.Formats.Gguf.Mapping;
using LoraSharp.Formats.Gguf.Tokenization;

namespace LoraSharp.Formats.Gguf;

/// <summary>What <see cref="GgufModelWriter"/> is told.</summary>
public sealed record GgufExportOptions
{
    /// <summary>Type of matrices; norms, biases and routers stay F32.</summary>
    public GgufTensorType Type { get; init; } = GgufTensorType.F16;

    /// <summary>Type of the embedding and the output; null: as <see cref="Type"/>.</summary>
    public GgufTensorType? EndsType { get; init; }

    /// <summary><c>general.name</c>; null: left out.</summary>
    public string? Name { get; init; }
}

/// <summary>What was written.</summary>
/// <param name="Tensors">Number of tensors.</param>
/// <param name="Bytes">Size of the file.</param>
/// <param name="Warnings">What the user should know: fallbacks, things llama.cpp does differently.</param>
public sealed record GgufExportResult(int Tensors, long Bytes, IReadOnlyList<string> Warnings);

/// <summary>Writes a model under Hugging Face names as the GGUF file that llama.cpp's converter would make of it.</summary>
public static class GgufModelWriter
{
    // Weights held at a time while a tensor is converted: 16 MB of single precision.
    private const int Stretch = 1 << 22;

    /// <summary>Writes a file.</summary>
    /// <param name="path">The file; replaced only when the new one is complete.</param>
    /// <param name="source">The weights.</param>
    /// <param name="config">config.json.</param>
    /// <param name="tokenizer">The tokenizer's files; empty for a model without.</param>
    /// <param name="options">Types and names.</param>
    /// <exception cref="LoraSharpException">The model has no counterpart in GGUF.</exception>
    public static GgufExportResult Write(string path, ITensorSource source, JsonObject config, GgufTokenizerFiles tokenizer, GgufExportOptions options)
    {
        ArgumentNullException.ThrowIfNull(source);
        ArgumentNullException.ThrowIfNull(tokenizer);
        ArgumentNullException.ThrowIfNull(options);
        var reader = new GgufModelConfig(source.Location, config);
        GgufArchitecture architecture = GgufArchitectures.Of(reader);
        var metadata = new GgufMetadataWriter();
        metadata.Set("general.architecture", architecture.Name);
        metadata.Set("general.type", "model");
        if (options.Name is { } name)
        {
            metadata.Set("general.name", name);
        }

        IReadOnlyList<(string Name, float[] Values)> factors = GgufConfigWriter.Write(reader, architecture, metadata);
        IReadOnlyList<GgufExportTensor> plans = GgufExportPlan.Create(source, reader, architecture);
        GgufExportTensor embedding = plans.FirstOrDefault(p => p.Name == "token_embd.weight")
            ?? throw new MalformedFileException(source.Location, "has no token embedding.");
        metadata.Set(".vocab_size", checked((int)embedding.Shape[0]));
        metadata.Set("general.file_type", FileType(options.Type));
        metadata.Set("general.quantization_version", 2);
        GgufTokenizerWriter.Write(tokenizer, reader, checked((int)embedding.Shape[0]), metadata);

        var fallbacks = new SortedDictionary<string, int>(StringComparer.Ordinal);
        List<GgufTensorToWrite> tensors = [.. factors.Select(f => Factors(f.Name, f.Values)), .. plans.Select(p => Tensor(source, p, options, fallbacks))];
        reader.Warnings.AddRange(fallbacks.Select(f => $"{f.Value} tensors have rows that do not fill blocks of {options.Type.Name()}: written as {f.Key}."));
        GgufWriter.Write(path, metadata, tensors);
        return new GgufExportResult(tensors.Count, new FileInfo(path).Length, reader.Warnings);
    }

    private static GgufTensorToWrite Factors(string name, float[] values) =>
        new(name, GgufTensorType.F32, [values.Length], stream => stream.Write(System.Runtime.InteropServices.MemoryMarshal.AsBytes(values.AsSpan())));

    private static GgufTensorToWrite Tensor(ITensorSource source, GgufExportTensor plan, GgufExportOptions options, SortedDictionary<string, int> fallbacks)
    {
        GgufTensorType type = TypeOf(plan, options, fallbacks);
        return new(plan.Name, type, plan.Shape, stream =>
        {
            var rows = new GgufRowReader(source, plan);
            int atOnce = (int)Math.Clamp(Stretch / Math.Max(1, rows.RowSize), 1, Math.Max(1, rows.Rows));
            float[] weights = new float[checked(atOnce * (int)rows.RowSize)];
            byte[] bytes = new byte[type.ByteCount(weights.Length)];
            for (long row = 0; row < rows.Rows; row += atOnce)
            {
                int count = (int)(Math.Min(atOnce, rows.Rows - row) * rows.RowSize);
                rows.Read(row, weights.AsSpan(0, count));
                Span<byte> encoded = bytes.AsSpan(0, (int)type.ByteCount(count));
                GgufQuantizer.Quantize(type, weights.AsSpan(0, count), encoded);
                stream.Write(encoded);
            }
        });
    }

    private static GgufTensorType TypeOf(GgufExportTensor plan, GgufExportOptions options, SortedDictionary<string, int> fallbacks)
    {
        // As llama.cpp's converter: vectors, norms, routers and learned positions are small and stay exact.
        if (plan.Shape.Count < 2 || plan.Name.EndsWith("_norm.weight", StringComparison.Ordinal)
            || plan.Name.EndsWith("ffn_gate_inp.weight", StringComparison.Ordinal) || plan.Name == "position_embd.weight")
        {
            return GgufTensorType.F32;
        }

        GgufTensorType wanted = plan.Name is "token_embd.weight" or "output.weight" ? options.EndsType ?? options.Type : options.Type;
        GgufTensorType type = wanted;
        while (plan.Shape[^1] % type.BlockWeights() != 0)
        {
            type = type switch
            {
                GgufTensorType.Q6_K => GgufTensorType.Q8_0,
                GgufTensorType.Q4_K => GgufTensorType.Q5_0,
                _ => GgufTensorType.F16,
            };
        }

        if (type != wanted)
        {
            fallbacks[type.Name()] = fallbacks.GetValueOrDefault(type.Name()) + 1;
        }

        return type;
    }

    /// <summary>llama.cpp's llama_ftype.</summary>
    private static int FileType(GgufTensorType type) => type switch
    {
        GgufTensorType.F32 => 0,
        GgufTensorType.F16 => 1,
        GgufTensorType.Q4_0 => 2,
        GgufTensorType.Q4_1 => 3,
        GgufTensorType.Q8_0 => 7,
        GgufTensorType.Q5_0 => 8,
        GgufTensorType.Q5_1 => 9,
        GgufTensorType.Q4_K => 14,
        GgufTensorType.Q6_K => 18,
        GgufTensorType.BF16 => 32,
        _ => throw new LoraSharpException($"{type.Name()} cannot be written. Types: {string.Join(", ", GgufQuantizer.Types.Select(t => t.Name()))}."),
    };
}
