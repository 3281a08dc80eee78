namespace LoraSharp.Formats.Gguf;

/// <summary>A tensor to be written: what it is, and how to get its bytes when its turn comes.</summary>
/// <param name="Name">Name in the file.</param>
/// <param name="Type">How it is stored.</param>
/// <param name="Shape">Sizes, outermost first.</param>
/// <param name="Write">Writes exactly the bytes that type and shape take.</param>
public sealed record GgufTensorToWrite(string Name, GgufTensorType Type, IReadOnlyList<long> Shape, Action<Stream> Write)
{
    /// <summary>Bytes of the data.</summary>
    public long ByteCount => Type.ByteCount(Shape.Aggregate(1L, (product, size) => checked(product * size)));
}

/// <summary>Writes GGUF version 3, one tensor at a time, aside and then renamed.</summary>
public static class GgufWriter
{
    private const int Alignment = 32;

    /// <summary>Writes a file.</summary>
    /// <param name="path">The file; an old one is replaced only when the new one is complete.</param>
    /// <param name="metadata">Keys in their order.</param>
    /// <param name="tensors">Their bytes are asked for one after the other.</param>
    public static void Write(string path, GgufMetadataWriter metadata, IReadOnlyList<GgufTensorToWrite> tensors)
    {
        ArgumentNullException.ThrowIfNull(metadata);
        ArgumentNullException.ThrowIfNull(tensors);
        byte[] header = Header(metadata, tensors);
        AtomicFile.Write(path, stream =>
        {
            stream.Write(header);
            Pad(stream, header.Length);
            foreach (GgufTensorToWrite tensor in tensors)
            {
                long before = stream.Position;
                tensor.Write(stream);
                if (stream.Position - before != tensor.ByteCount)
                {
                    throw new InvalidOperationException($"Tensor '{tensor.Name}' wrote {stream.Position - before} bytes, {tensor.Type} [{string.Join(", ", tensor.Shape)}] takes {tensor.ByteCount}.");
                }

                Pad(stream, tensor.ByteCount);
            }
        });
    }

    private static byte[] Header(GgufMetadataWriter metadata, IReadOnlyList<GgufTensorToWrite> tensors)
    {
        using var stream = new MemoryStream();
        stream.Write("GGUF"u8);
        GgufMetadataWriter.WriteUInt32(stream, 3);
        GgufMetadataWriter.WriteInt64(stream, tensors.Count);
        GgufMetadataWriter.WriteInt64(stream, metadata.Count);
        stream.Write(metadata.ToBytes());
        long offset = 0;
        foreach (GgufTensorToWrite tensor in tensors)
        {
            stream.Write(GgufMetadataWriter.Text(tensor.Name));
            GgufMetadataWriter.WriteUInt32(stream, (uint)tensor.Shape.Count);
            for (int i = tensor.Shape.Count - 1; i >= 0; i--)
            {
                GgufMetadataWriter.WriteInt64(stream, tensor.Shape[i]);
            }

            GgufMetadataWriter.WriteUInt32(stream, (uint)tensor.Type);
            GgufMetadataWriter.WriteInt64(stream, offset);
            offset += Padded(tensor.ByteCount);
        }

        return stream.ToArray();
    }

    private static long Padded(long length) => (length + Alignment - 1) / Alignment * Alignment;

    private static void Pad(Stream stream, long length) => stream.Write(new byte[Padded(length) - length]);
}
