using System.Buffers.Binary;
using System.Text.Json;

namespace LoraSharp.Formats.Safetensors;

/// <summary>A tensor to be written: what it is, and how to get its bytes when its turn comes.</summary>
/// <param name="Info">Name, type and shape.</param>
/// <param name="Write">Writes exactly <see cref="TensorInfo.ByteCount"/> bytes, row-major and little-endian.</param>
public sealed record TensorToWrite(TensorInfo Info, Action<Stream> Write)
{
    /// <summary>Copies a tensor of another file.</summary>
    public static TensorToWrite From(TensorData data, string? name = null) => new(data.Info with { Name = name ?? data.Info.Name }, stream =>
    {
        for (long offset = 0; offset < data.Info.ByteCount;)
        {
            int piece = (int)Math.Min(1 << 26, data.Info.ByteCount - offset);
            stream.Write(data.Slice(offset, piece));
            offset += piece;
        }
    });
}

/// <summary>Writes safetensors files, one tensor at a time, aside and then renamed.</summary>
public static class SafetensorsWriter
{
    /// <summary>
    /// Writes a file in the order of the reference implementation (larger elements first, then by name), so that data
    /// is aligned and equal input gives equal bytes.
    /// </summary>
    /// <param name="path">The file; an old one is replaced only when the new one is complete.</param>
    /// <param name="tensors">Their bytes are asked for one after the other.</param>
    /// <param name="metadata">Free-form strings; <c>format: pt</c> is what transformers expects.</param>
    public static void Write(string path, IEnumerable<TensorToWrite> tensors, IReadOnlyDictionary<string, string>? metadata = null)
    {
        TensorToWrite[] ordered = [.. tensors.OrderByDescending(t => t.Info.Type.Size()).ThenBy(t => t.Info.Name, StringComparer.Ordinal)];
        byte[] header = Header(ordered, metadata);
        AtomicFile.Write(path, stream =>
        {
            Span<byte> length = stackalloc byte[8];
            BinaryPrimitives.WriteInt64LittleEndian(length, header.Length);
            stream.Write(length);
            stream.Write(header);
            foreach (TensorToWrite tensor in ordered)
            {
                long before = stream.Position;
                tensor.Write(stream);
                if (stream.Position - before != tensor.Info.ByteCount)
                {
                    throw new InvalidOperationException($"Tensor '{tensor.Info.Name}' wrote {stream.Position - before} bytes, its shape {tensor.Info.ShapeText} takes {tensor.Info.ByteCount}.");
                }
            }
        });
    }

    private static byte[] Header(TensorToWrite[] tensors, IReadOnlyDictionary<string, string>? metadata)
    {
        using var buffer = new MemoryStream();
        using (var json = new Utf8JsonWriter(buffer, new JsonWriterOptions { Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping }))
        {
            json.WriteStartObject();
            if (metadata is { Count: > 0 })
            {
                json.WriteStartObject("__metadata__");
                foreach ((string key, string value) in metadata.OrderBy(p => p.Key, StringComparer.Ordinal))
                {
                    json.WriteString(key, value);
                }

                json.WriteEndObject();
            }

            long offset = 0;
            foreach (TensorToWrite tensor in tensors)
            {
                json.WriteStartObject(tensor.Info.Name);
                json.WriteString("dtype", SafetensorsHeader.NameOf(tensor.Info.Type));
                json.WriteStartArray("shape");
                foreach (long size in tensor.Info.Shape)
                {
                    json.WriteNumberValue(size);
                }

                json.WriteEndArray();
                json.WriteStartArray("data_offsets");
                json.WriteNumberValue(offset);
                json.WriteNumberValue(offset += tensor.Info.ByteCount);
                json.WriteEndArray();
                json.WriteEndObject();
            }

            json.WriteEndObject();
        }

        // Spaces up to a multiple of 8 align the data.
        while (buffer.Length % 8 != 0)
        {
            buffer.WriteByte((byte)' ');
        }

        return buffer.ToArray();
    }
}
