using System.Buffers.Binary;
using System.Security.Cryptography;
using System.Text;
using LoraSharp.Formats;

namespace LoraSharp.Adapters;

/// <summary>
/// A short name for a base model's weights: a hash over names and shapes, and one over samples of the data. The first
/// is the same for every storage of a model, the second only for the same type of elements.
/// </summary>
/// <param name="Shapes">SHA-256 over sorted names and shapes, 32 hexadecimal digits.</param>
/// <param name="Data">SHA-256 over element types and the first and last kilobyte of each tensor, 32 hexadecimal digits.</param>
public sealed record BaseFingerprint(string Shapes, string Data)
{
    private const int Sample = 1024;

    /// <summary>Reads a few pages of each tensor.</summary>
    public static BaseFingerprint Of(ITensorSource source)
    {
        ArgumentNullException.ThrowIfNull(source);
        using var shapes = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        using var data = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        Span<byte> number = stackalloc byte[8];
        foreach ((string name, TensorInfo info) in source.Tensors.OrderBy(t => t.Key, StringComparer.Ordinal))
        {
            byte[] label = Encoding.UTF8.GetBytes($"{name} {info.ShapeText}\n");
            shapes.AppendData(label);
            data.AppendData(label);
            BinaryPrimitives.WriteInt64LittleEndian(number, (long)info.Type);
            data.AppendData(number);
            // What is dequantised on reading would cost a whole pass over the model.
            TensorData bytes = info.ByteCount == 0 ? default : source.Read(name);
            if (info.ByteCount > 0 && bytes.IsMapped)
            {
                int length = (int)Math.Min(Sample, info.ByteCount);
                data.AppendData(bytes.Slice(0, length));
                data.AppendData(bytes.Slice(info.ByteCount - length, length));
            }
            else if (bytes.Owned is not null)
            {
                return new(Text(source), string.Empty);
            }
        }

        return new(Digits(shapes), Digits(data));
    }

    /// <summary>As strings for the metadata of a safetensors file.</summary>
    public IEnumerable<KeyValuePair<string, string>> ToMetadata()
    {
        yield return new("lorasharp.base_shapes", Shapes);
        if (Data.Length > 0)
        {
            yield return new("lorasharp.base_data", Data);
        }
    }

    /// <summary>What is wrong about an adapter's metadata with this base, or null when nothing is known to be.</summary>
    public string? Compare(IReadOnlyDictionary<string, string> metadata)
    {
        ArgumentNullException.ThrowIfNull(metadata);
        if (metadata.GetValueOrDefault("lorasharp.base_shapes") is { } shapes && shapes != Shapes)
        {
            return "it was made for a base whose tensors have other names or shapes";
        }

        return metadata.GetValueOrDefault("lorasharp.base_data") is { } data && Data.Length > 0 && data != Data
            ? "it was made for a base with other weights, or the same ones stored in another type"
            : null;
    }

    private static string Text(ITensorSource source)
    {
        using var shapes = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        foreach ((string name, TensorInfo info) in source.Tensors.OrderBy(t => t.Key, StringComparer.Ordinal))
        {
            shapes.AppendData(Encoding.UTF8.GetBytes($"{name} {info.ShapeText}\n"));
        }

        return Digits(shapes);
    }

    private static string Digits(IncrementalHash hash) => Convert.ToHexStringLower(hash.GetHashAndReset())[..32];
}
