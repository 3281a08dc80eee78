using System.Buffers.Binary;
using System.Globalization;
using System.Runtime.InteropServices;
using System.Text;

namespace LoraSharp.Formats.Gguf;

/// <summary>Types of metadata values with the numbers that stand in files.</summary>
public enum GgufValueType
{
    /// <summary>Unsigned 8-bit integer.</summary>
    UInt8 = 0,

    /// <summary>Signed 8-bit integer.</summary>
    Int8 = 1,

    /// <summary>Unsigned 16-bit integer.</summary>
    UInt16 = 2,

    /// <summary>Signed 16-bit integer.</summary>
    Int16 = 3,

    /// <summary>Unsigned 32-bit integer.</summary>
    UInt32 = 4,

    /// <summary>Signed 32-bit integer.</summary>
    Int32 = 5,

    /// <summary>IEEE single precision.</summary>
    Float32 = 6,

    /// <summary>One byte, 0 or 1.</summary>
    Bool = 7,

    /// <summary>UTF-8 with its length in front.</summary>
    String = 8,

    /// <summary>Values of one type.</summary>
    Array = 9,

    /// <summary>Unsigned 64-bit integer.</summary>
    UInt64 = 10,

    /// <summary>Signed 64-bit integer.</summary>
    Int64 = 11,

    /// <summary>IEEE double precision.</summary>
    Float64 = 12,
}

/// <summary>
/// One metadata value. It is a view of the file: strings and arrays are decoded when they are asked for, so that
/// opening a file allocates nothing in proportion to what its header claims.
/// </summary>
public readonly unsafe struct GgufValue
{
    private readonly GgufFile _file;
    private readonly byte* _bytes;

    internal GgufValue(GgufFile file, string key, GgufValueType type, GgufValueType elementType, long count, byte* bytes, long byteCount)
    {
        _file = file;
        _bytes = bytes;
        Key = key;
        Type = type;
        ElementType = elementType;
        Count = count;
        ByteCount = byteCount;
    }

    /// <summary>The key it stands under.</summary>
    public string Key { get; }

    /// <summary>Its type.</summary>
    public GgufValueType Type { get; }

    /// <summary>Type of the elements of an array; of a plain value its own.</summary>
    public GgufValueType ElementType { get; }

    /// <summary>Number of elements of an array; 1 for a plain value.</summary>
    public long Count { get; }

    /// <summary>Bytes of the value's content in the file.</summary>
    internal long ByteCount { get; }

    /// <summary>The content as it stands in the file, for copying a value to another file unchanged.</summary>
    internal ReadOnlySpan<byte> Raw
    {
        get
        {
            _file.ThrowIfDisposed();
            return new ReadOnlySpan<byte>(_bytes, checked((int)ByteCount));
        }
    }

    /// <summary>A string.</summary>
    /// <exception cref="MalformedFileException">It is something else, or not UTF-8.</exception>
    public string AsString() => Type == GgufValueType.String ? Decode(Raw[8..]) : throw Unexpected("a string");

    /// <summary>An integer of any width.</summary>
    /// <exception cref="MalformedFileException">It is something else.</exception>
    public long AsInt64() => Type is GgufValueType.Array or GgufValueType.String or GgufValueType.Float32 or GgufValueType.Float64
        ? throw Unexpected("an integer")
        : Integer(Type, Raw);

    /// <summary>An integer that fits 32 bits.</summary>
    /// <exception cref="MalformedFileException">It is something else or too large.</exception>
    public int AsInt32() => AsInt64() is >= int.MinValue and <= int.MaxValue and long value ? (int)value : throw Unexpected("an integer of 32 bits");

    /// <summary>
    /// A number. Single precision is widened through its shortest decimal text, so that what was written as 1e-6 reads
    /// as 1e-6 and not as 9.99999997e-07.
    /// </summary>
    /// <exception cref="MalformedFileException">It is no number, or not finite.</exception>
    public double AsDouble()
    {
        double value = Type switch
        {
            GgufValueType.Float32 => Shortest(BinaryPrimitives.ReadSingleLittleEndian(Raw)),
            GgufValueType.Float64 => BinaryPrimitives.ReadDoubleLittleEndian(Raw),
            _ => AsInt64(),
        };
        return double.IsFinite(value) ? value : throw new MalformedFileException(_file.Location, $"metadata '{Key}': expected a number, found {value}.");
    }

    /// <summary>A truth value.</summary>
    /// <exception cref="MalformedFileException">It is something else.</exception>
    public bool AsBool() => Type == GgufValueType.Bool ? Raw[0] != 0 : throw Unexpected("a truth value");

    /// <summary>An array of strings.</summary>
    /// <exception cref="MalformedFileException">It is something else, or one of them is not UTF-8.</exception>
    public string[] AsStrings()
    {
        if (Type != GgufValueType.Array || ElementType != GgufValueType.String)
        {
            throw Unexpected("an array of strings");
        }

        ReadOnlySpan<byte> bytes = Raw[12..];
        string[] strings = new string[checked((int)Count)];
        for (int i = 0; i < strings.Length; i++)
        {
            int length = checked((int)BinaryPrimitives.ReadInt64LittleEndian(bytes));
            strings[i] = Decode(bytes.Slice(8, length));
            bytes = bytes[(8 + length)..];
        }

        return strings;
    }

    /// <summary>An array of integers; a plain integer gives one.</summary>
    /// <exception cref="MalformedFileException">It is something else.</exception>
    public long[] AsIntegers()
    {
        if (Type != GgufValueType.Array)
        {
            return [AsInt64()];
        }

        if (ElementType is GgufValueType.String or GgufValueType.Array or GgufValueType.Float32 or GgufValueType.Float64)
        {
            throw Unexpected("an array of integers");
        }

        int size = SizeOf(ElementType);
        long[] values = new long[checked((int)Count)];
        ReadOnlySpan<byte> bytes = Raw[12..];
        for (int i = 0; i < values.Length; i++)
        {
            values[i] = Integer(ElementType, bytes.Slice(i * size, size));
        }

        return values;
    }

    /// <summary>An array of single-precision numbers.</summary>
    /// <exception cref="MalformedFileException">It is something else.</exception>
    public float[] AsFloats() => Type == GgufValueType.Array && ElementType == GgufValueType.Float32
        ? MemoryMarshal.Cast<byte, float>(Raw[12..]).ToArray()
        : throw Unexpected("an array of numbers");

    /// <summary>The value as text, arrays by their length: for listings.</summary>
    public override string ToString() => Type switch
    {
        GgufValueType.Array => $"{Count} × {ElementType}",
        GgufValueType.String => AsString(),
        GgufValueType.Bool => AsBool() ? "true" : "false",
        GgufValueType.Float32 or GgufValueType.Float64 => (Type == GgufValueType.Float32 ? BinaryPrimitives.ReadSingleLittleEndian(Raw) : BinaryPrimitives.ReadDoubleLittleEndian(Raw)).ToString(CultureInfo.InvariantCulture),
        _ => AsInt64().ToString(CultureInfo.InvariantCulture),
    };

    internal static int SizeOf(GgufValueType type) => type switch
    {
        GgufValueType.UInt8 or GgufValueType.Int8 or GgufValueType.Bool => 1,
        GgufValueType.UInt16 or GgufValueType.Int16 => 2,
        GgufValueType.UInt32 or GgufValueType.Int32 or GgufValueType.Float32 => 4,
        GgufValueType.UInt64 or GgufValueType.Int64 or GgufValueType.Float64 => 8,
        _ => 0,
    };

    private static double Shortest(float value) => float.IsFinite(value)
        ? double.Parse(value.ToString("R", CultureInfo.InvariantCulture), CultureInfo.InvariantCulture)
        : value;

    private long Integer(GgufValueType type, ReadOnlySpan<byte> bytes) => type switch
    {
        GgufValueType.UInt8 => bytes[0],
        GgufValueType.Bool => bytes[0] == 0 ? 0 : 1,
        GgufValueType.Int8 => (sbyte)bytes[0],
        GgufValueType.UInt16 => BinaryPrimitives.ReadUInt16LittleEndian(bytes),
        GgufValueType.Int16 => BinaryPrimitives.ReadInt16LittleEndian(bytes),
        GgufValueType.UInt32 => BinaryPrimitives.ReadUInt32LittleEndian(bytes),
        GgufValueType.Int32 => BinaryPrimitives.ReadInt32LittleEndian(bytes),
        GgufValueType.Int64 => BinaryPrimitives.ReadInt64LittleEndian(bytes),
        _ => BinaryPrimitives.ReadUInt64LittleEndian(bytes) is <= long.MaxValue and ulong value ? (long)value : throw Unexpected("an integer of 63 bits"),
    };

    private string Decode(ReadOnlySpan<byte> bytes)
    {
        try
        {
            return new UTF8Encoding(false, throwOnInvalidBytes: true).GetString(bytes);
        }
        catch (DecoderFallbackException error)
        {
            throw new MalformedFileException(_file.Location, $"metadata '{Key}' holds a string that is not valid UTF-8 ({error.Message}).", error);
        }
    }

    private MalformedFileException Unexpected(string expected)
    {
        string found = Type == GgufValueType.Array ? $"an array of {Count} {ElementType}" : Type.ToString();
        return new MalformedFileException(_file.Location, $"metadata '{Key}': expected {expected}, found {found}.");
    }
}
