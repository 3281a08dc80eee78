using System.Buffers.Binary;
using System.Text;

namespace LoraSharp.Formats.Gguf;

/// <summary>Collects metadata for a file that is to be written; keys keep their order, a key set twice keeps the last value.</summary>
public sealed class GgufMetadataWriter
{
    private readonly List<string> _order = [];
    private readonly Dictionary<string, (GgufValueType Type, byte[] Content)> _values = new(StringComparer.Ordinal);

    /// <summary>Number of keys.</summary>
    public int Count => _order.Count;

    /// <summary>Put in front of keys that begin with a dot: <c>.block_count</c> becomes <c>llama.block_count</c>.</summary>
    public string Prefix { get; set; } = string.Empty;

    /// <summary>A string.</summary>
    public void Set(string key, string value) => Add(key, GgufValueType.String, Text(value));

    /// <summary>A whole number as u32, the type llama.cpp expects almost everywhere.</summary>
    public void Set(string key, int value)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(value);
        byte[] bytes = new byte[4];
        BinaryPrimitives.WriteInt32LittleEndian(bytes, value);
        Add(key, GgufValueType.UInt32, bytes);
    }

    /// <summary>A number as f32.</summary>
    public void Set(string key, double value)
    {
        byte[] bytes = new byte[4];
        BinaryPrimitives.WriteSingleLittleEndian(bytes, (float)value);
        Add(key, GgufValueType.Float32, bytes);
    }

    /// <summary>A truth value.</summary>
    public void Set(string key, bool value) => Add(key, GgufValueType.Bool, [value ? (byte)1 : (byte)0]);

    /// <summary>An array of strings.</summary>
    public void Set(string key, IReadOnlyList<string> values)
    {
        ArgumentNullException.ThrowIfNull(values);
        Add(key, GgufValueType.Array, Array(GgufValueType.String, values.Count, stream =>
        {
            foreach (string value in values)
            {
                stream.Write(Text(value));
            }
        }));
    }

    /// <summary>An array of i32.</summary>
    public void Set(string key, IReadOnlyList<int> values)
    {
        ArgumentNullException.ThrowIfNull(values);
        Add(key, GgufValueType.Array, Array(GgufValueType.Int32, values.Count, stream => Each(stream, values, (bytes, v) => BinaryPrimitives.WriteInt32LittleEndian(bytes, v))));
    }

    /// <summary>An array of f32.</summary>
    public void Set(string key, IReadOnlyList<float> values)
    {
        ArgumentNullException.ThrowIfNull(values);
        Add(key, GgufValueType.Array, Array(GgufValueType.Float32, values.Count, stream => Each(stream, values, (bytes, v) => BinaryPrimitives.WriteSingleLittleEndian(bytes, v))));
    }

    /// <summary>An array of truth values.</summary>
    public void Set(string key, IReadOnlyList<bool> values)
    {
        ArgumentNullException.ThrowIfNull(values);
        Add(key, GgufValueType.Array, Array(GgufValueType.Bool, values.Count, stream =>
        {
            foreach (bool value in values)
            {
                stream.WriteByte(value ? (byte)1 : (byte)0);
            }
        }));
    }

    /// <summary>A value of another file as it is.</summary>
    public void Copy(GgufValue value) => Add(value.Key, value.Type, value.Raw.ToArray());

    internal byte[] ToBytes()
    {
        using var stream = new MemoryStream();
        foreach (string key in _order)
        {
            (GgufValueType type, byte[] content) = _values[key];
            stream.Write(Text(key));
            WriteUInt32(stream, (uint)type);
            stream.Write(content);
        }

        return stream.ToArray();
    }

    internal static byte[] Text(string value)
    {
        ArgumentNullException.ThrowIfNull(value);
        byte[] text = Encoding.UTF8.GetBytes(value);
        byte[] bytes = new byte[8 + text.Length];
        BinaryPrimitives.WriteInt64LittleEndian(bytes, text.Length);
        text.CopyTo(bytes, 8);
        return bytes;
    }

    internal static void WriteUInt32(Stream stream, uint value)
    {
        Span<byte> bytes = stackalloc byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(bytes, value);
        stream.Write(bytes);
    }

    internal static void WriteInt64(Stream stream, long value)
    {
        Span<byte> bytes = stackalloc byte[8];
        BinaryPrimitives.WriteInt64LittleEndian(bytes, value);
        stream.Write(bytes);
    }

    private static byte[] Array(GgufValueType element, int count, Action<Stream> write)
    {
        using var stream = new MemoryStream();
        WriteUInt32(stream, (uint)element);
        WriteInt64(stream, count);
        write(stream);
        return stream.ToArray();
    }

    private static void Each<T>(Stream stream, IReadOnlyList<T> values, Action<byte[], T> encode)
    {
        byte[] bytes = new byte[4];
        foreach (T value in values)
        {
            encode(bytes, value);
            stream.Write(bytes);
        }
    }

    private void Add(string key, GgufValueType type, byte[] content)
    {
        ArgumentException.ThrowIfNullOrEmpty(key);
        string full = key.StartsWith('.') ? Prefix + key : key;
        if (!_values.ContainsKey(full))
        {
            _order.Add(full);
        }

        _values[full] = (type, content);
    }
}
