using System.Buffers.Binary;
using System.Text.Json;

namespace LoraSharp.Formats.Safetensors;

/// <summary>One tensor's place in the data section.</summary>
internal sealed record SafetensorsEntry(TensorInfo Info, long Begin, long End);

/// <summary>The parsed and checked header.</summary>
internal sealed class SafetensorsHeader
{
    /// <summary>The reference implementation's limit.</summary>
    private const long LargestHeader = 100_000_000;

    public required IReadOnlyDictionary<string, SafetensorsEntry> Tensors { get; init; }

    public required IReadOnlyDictionary<string, string> Metadata { get; init; }

    public required long DataOffset { get; init; }

    public static SafetensorsHeader Read(string path, Stream stream, long fileLength)
    {
        Span<byte> prefix = stackalloc byte[8];
        if (fileLength < 8 || stream.ReadAtLeast(prefix, 8, throwOnEndOfStream: false) < 8)
        {
            throw new MalformedFileException(path, $"a safetensors file starts with 8 bytes of header length, found {fileLength} bytes in all. The file is truncated: download or write it again.");
        }

        ulong declared = BinaryPrimitives.ReadUInt64LittleEndian(prefix);
        if (declared > LargestHeader)
        {
            throw new MalformedFileException(path, $"the header claims {declared} bytes, at most {LargestHeader} are allowed. This is not a safetensors file, or it is damaged.");
        }

        long length = (long)declared;
        if (8 + length > fileLength)
        {
            throw new MalformedFileException(path, $"the header claims {length} bytes, but the file has {fileLength - 8} after its length. The file is truncated: download or write it again.");
        }

        byte[] json = new byte[length];
        stream.ReadExactly(json);
        var tensors = new Dictionary<string, SafetensorsEntry>(StringComparer.Ordinal);
        var metadata = new Dictionary<string, string>(StringComparer.Ordinal);
        try
        {
            // A document keeps duplicate names, which a dictionary would silently drop.
            using JsonDocument document = JsonDocument.Parse(json, new JsonDocumentOptions { MaxDepth = 8 });
            if (document.RootElement.ValueKind != JsonValueKind.Object)
            {
                throw new MalformedFileException(path, $"the header must be a JSON object, found {document.RootElement.ValueKind}.");
            }

            foreach (JsonProperty property in document.RootElement.EnumerateObject())
            {
                if (property.Name == "__metadata__")
                {
                    ReadMetadata(path, property.Value, metadata);
                }
                else if (!tensors.TryAdd(property.Name, ReadEntry(path, property)))
                {
                    throw new MalformedFileException(path, $"the header names the tensor '{property.Name}' twice.");
                }
            }
        }
        catch (Exception error) when (error is JsonException or InvalidOperationException)
        {
            throw new MalformedFileException(path, $"the header is not valid JSON ({error.Message}).", error);
        }

        CheckPlaces(path, tensors, fileLength - 8 - length);
        return new SafetensorsHeader { Tensors = tensors, Metadata = metadata, DataOffset = 8 + length };
    }

    private static void ReadMetadata(string path, JsonElement value, Dictionary<string, string> metadata)
    {
        if (value.ValueKind != JsonValueKind.Object)
        {
            throw new MalformedFileException(path, $"__metadata__ must map strings to strings, found {value.ValueKind}.");
        }

        foreach (JsonProperty pair in value.EnumerateObject())
        {
            if (pair.Value.ValueKind != JsonValueKind.String)
            {
                throw new MalformedFileException(path, $"__metadata__ must map strings to strings, '{pair.Name}' is {pair.Value.ValueKind}.");
            }

            metadata[pair.Name] = pair.Value.GetString()!;
        }
    }

    private static SafetensorsEntry ReadEntry(string path, JsonProperty property)
    {
        string name = property.Name;
        JsonElement value = property.Value;
        if (value.ValueKind != JsonValueKind.Object || !value.TryGetProperty("dtype", out JsonElement dtype)
            || !value.TryGetProperty("shape", out JsonElement shape) || !value.TryGetProperty("data_offsets", out JsonElement offsets)
            || dtype.ValueKind != JsonValueKind.String || shape.ValueKind != JsonValueKind.Array || offsets.ValueKind != JsonValueKind.Array)
        {
            throw new MalformedFileException(path, $"tensor '{name}': expected an object with dtype, shape and data_offsets.");
        }

        ElementType type = ParseType(dtype.GetString()!)
            ?? throw new MalformedFileException(path, $"tensor '{name}': unknown dtype '{dtype.GetString()}', expected one of F64 F32 F16 BF16 F8_E4M3 F8_E5M2 I64 I32 I16 I8 U64 U32 U16 U8 BOOL.");
        var sizes = new List<long>();
        long bytes = type.Size();
        foreach (JsonElement size in shape.EnumerateArray())
        {
            if (size.ValueKind != JsonValueKind.Number || !size.TryGetInt64(out long length) || length < 0)
            {
                throw new MalformedFileException(path, $"tensor '{name}': the shape must hold sizes of 0 or more, found {size.GetRawText()}.");
            }

            sizes.Add(length);
            try
            {
                bytes = checked(bytes * length);
            }
            catch (OverflowException error)
            {
                throw new MalformedFileException(path, $"tensor '{name}': the shape [{shape.GetRawText()}] overflows.", error);
            }
        }

        if (offsets.GetArrayLength() != 2 || !TryOffset(offsets[0], out long begin) || !TryOffset(offsets[1], out long end) || begin > end)
        {
            throw new MalformedFileException(path, $"tensor '{name}': data_offsets must be [begin, end] with 0 ≤ begin ≤ end, found {offsets.GetRawText()}.");
        }

        if (end - begin != bytes)
        {
            throw new MalformedFileException(path, $"tensor '{name}': {type} [{string.Join(", ", sizes)}] takes {bytes} bytes, data_offsets [{begin}, {end}] give {end - begin}.");
        }

        return new SafetensorsEntry(new TensorInfo(name, type, sizes), begin, end);
    }

    private static bool TryOffset(JsonElement element, out long offset)
    {
        offset = 0;
        return element.ValueKind == JsonValueKind.Number && element.TryGetInt64(out offset) && offset >= 0;
    }

    /// <summary>The format demands that tensors fill the data section without gaps or overlaps.</summary>
    private static void CheckPlaces(string path, Dictionary<string, SafetensorsEntry> tensors, long dataLength)
    {
        long position = 0;
        string previous = "the header";
        foreach (SafetensorsEntry entry in tensors.Values.OrderBy(e => e.Begin).ThenBy(e => e.End))
        {
            if (entry.Begin != position)
            {
                string what = entry.Begin < position ? "overlaps" : "leaves a gap after";
                throw new MalformedFileException(path, $"tensor '{entry.Info.Name}' at bytes {entry.Begin} to {entry.End} {what} {previous}, which ends at {position}.");
            }

            position = entry.End;
            previous = $"tensor '{entry.Info.Name}'";
        }

        if (position != dataLength)
        {
            throw new MalformedFileException(path, position > dataLength
                ? $"{previous} ends at byte {position}, but the file holds {dataLength} bytes of data. The file is truncated: download or write it again."
                : $"the tensors take {position} bytes of data, but the file holds {dataLength}.");
        }
    }

    internal static ElementType? ParseType(string name) => name switch
    {
        "F64" => ElementType.F64,
        "F32" => ElementType.F32,
        "F16" => ElementType.F16,
        "BF16" => ElementType.BF16,
        "F8_E4M3" => ElementType.F8E4M3,
        "F8_E5M2" => ElementType.F8E5M2,
        "I64" => ElementType.I64,
        "I32" => ElementType.I32,
        "I16" => ElementType.I16,
        "I8" => ElementType.I8,
        "U64" => ElementType.U64,
        "U32" => ElementType.U32,
        "U16" => ElementType.U16,
        "U8" => ElementType.U8,
        "BOOL" => ElementType.Bool,
        _ => null,
    };

    internal static string NameOf(ElementType type) => type switch
    {
        ElementType.F8E4M3 => "F8_E4M3",
        ElementType.F8E5M2 => "F8_E5M2",
        ElementType.Bool => "BOOL",
        _ => type.ToString(),
    };
}
