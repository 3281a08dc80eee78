using System.Buffers.Binary;
using System.Text;

namespace LoraSharp.Formats.Gguf;

/// <summary>
/// Walks a GGUF header once, checking every length against what is left of the file before it is used
/// (<see href="https://github.com/ggml-org/ggml/blob/master/docs/gguf.md"/>).
/// </summary>
internal unsafe ref struct GgufHeaderReader
{
    // Real files have some 40 keys and up to a few thousand tensors. The limits keep what a lying header can make us
    // allocate (a dictionary entry, a record and a name each) well below 64 MB.
    private const ulong MostKeys = 65_536;
    private const ulong MostTensors = 100_000;
    private const ulong LongestName = 1024;
    private const uint MostDimensions = 4;

    private readonly string _path;
    private readonly byte* _start;
    private readonly ulong _length;
    private ulong _position;

    public GgufHeaderReader(string path, byte* start, long length)
    {
        _path = path;
        _start = start;
        _length = (ulong)length;
    }

    public uint Version { get; private set; }

    public ulong TensorCount { get; private set; }

    public ulong KeyCount { get; private set; }

    public readonly long Position => (long)_position;

    public void ReadPrologue()
    {
        if (_length < 24)
        {
            throw Fault($"a GGUF file starts with 24 bytes of magic, version and counts, found {_length} bytes in all. The file is truncated: download or write it again.");
        }

        if (!new ReadOnlySpan<byte>(_start, 4).SequenceEqual("GGUF"u8))
        {
            throw Fault($"does not start with GGUF (found {Convert.ToHexString(new ReadOnlySpan<byte>(_start, 4))}). This is not a GGUF file.");
        }

        _position = 4;
        Version = UInt32("version");
        if (Version is not (2 or 3))
        {
            throw Fault(Version is 0x02000000 or 0x03000000
                ? "is a big-endian GGUF file; only little-endian ones are read. Convert it with gguf_convert_endian.py of llama.cpp."
                : $"has GGUF version {Version} at offset 4, expected 2 or 3. Convert the model again with a current llama.cpp.");
        }

        TensorCount = UInt64("tensor count");
        KeyCount = UInt64("metadata count");
        // Each needs at least its fixed fields: a count that the file cannot hold is a lie.
        if (KeyCount > MostKeys || KeyCount > (_length - _position) / 13)
        {
            throw Fault($"claims {KeyCount} metadata values at offset 16; a file of {_length} bytes holds at most {Math.Min(MostKeys, (_length - _position) / 13)}.");
        }

        if (TensorCount > MostTensors || TensorCount > (_length - _position) / 24)
        {
            throw Fault($"claims {TensorCount} tensors at offset 8; a file of {_length} bytes holds at most {Math.Min(MostTensors, (_length - _position) / 24)}.");
        }
    }

    public GgufValue ReadValue(GgufFile file)
    {
        ulong at = _position;
        string key = Name("metadata key");
        uint number = UInt32($"type of metadata '{key}'");
        if (number > (uint)GgufValueType.Float64)
        {
            throw Fault($"metadata '{key}' at offset {at} has type {number}, expected 0 to 12.");
        }

        var type = (GgufValueType)number;
        ulong begin = _position;
        GgufValueType elementType = type;
        ulong count = 1;
        switch (type)
        {
            case GgufValueType.String:
                SkipString(key);
                break;
            case GgufValueType.Array:
                (elementType, count) = SkipArray(key);
                break;
            default:
                Skip((ulong)GgufValue.SizeOf(type), $"metadata '{key}'");
                break;
        }

        return new GgufValue(file, key, type, elementType, (long)count, _start + begin, (long)(_position - begin));
    }

    public GgufTensorInfo ReadTensor()
    {
        ulong at = _position;
        string name = Name("tensor name");
        uint dimensions = UInt32($"number of dimensions of tensor '{name}'");
        if (dimensions > MostDimensions)
        {
            throw Fault($"tensor '{name}' at offset {at} has {dimensions} dimensions, at most {MostDimensions} are allowed.");
        }

        long[] shape = new long[dimensions];
        ulong weights = 1;
        for (uint i = 0; i < dimensions; i++)
        {
            ulong size = UInt64($"size of tensor '{name}'");
            if (size > long.MaxValue || (size != 0 && weights > long.MaxValue / size))
            {
                throw Fault($"tensor '{name}' at offset {at}: dimension {i} of size {size} overflows the number of weights.");
            }

            weights *= size;
            shape[dimensions - 1 - i] = (long)size;
        }

        uint number = UInt32($"type of tensor '{name}'");
        (int Weights, int Bytes) block = GgufTensorTypes.Block(number)
            ?? throw Fault($"tensor '{name}' at offset {at} has type {number}, which is not one of {string.Join(", ", Enum.GetNames<GgufTensorType>())}.");
        ulong row = dimensions == 0 ? 1 : (ulong)shape[^1];
        if (row % (ulong)block.Weights != 0)
        {
            throw Fault($"tensor '{name}' at offset {at}: rows of {row} weights do not fill blocks of {block.Weights} as {(GgufTensorType)number} needs.");
        }

        ulong blocks = weights / (ulong)block.Weights;
        if (blocks > (ulong)(long.MaxValue / block.Bytes))
        {
            throw Fault($"tensor '{name}' at offset {at}: {weights} weights overflow the number of bytes.");
        }

        ulong offset = UInt64($"data offset of tensor '{name}'");
        if (offset > long.MaxValue)
        {
            throw Fault($"tensor '{name}' at offset {at} begins at byte {offset} of the data, beyond any file.");
        }

        return new GgufTensorInfo(name, (GgufTensorType)number, shape, (long)offset, (long)blocks * block.Bytes);
    }

    private (GgufValueType Element, ulong Count) SkipArray(string key)
    {
        uint number = UInt32($"element type of metadata '{key}'");
        ulong count = UInt64($"length of metadata '{key}'");
        if (number > (uint)GgufValueType.Float64 || number == (uint)GgufValueType.Array)
        {
            throw Fault($"metadata '{key}' at offset {_position - 12}: an array of type {number}, expected 0 to 12 and no array of arrays.");
        }

        var element = (GgufValueType)number;
        ulong smallest = element == GgufValueType.String ? 8 : (ulong)GgufValue.SizeOf(element);
        if (count > (_length - _position) / smallest || count > int.MaxValue)
        {
            throw Fault($"metadata '{key}' at offset {_position - 8} claims {count} elements of {element}, but {_length - _position} bytes are left in the file.");
        }

        if (element != GgufValueType.String)
        {
            Skip(count * smallest, $"metadata '{key}'");
            return (element, count);
        }

        for (ulong i = 0; i < count; i++)
        {
            SkipString(key);
        }

        return (element, count);
    }

    private void SkipString(string key)
    {
        ulong length = UInt64($"length of a string in metadata '{key}'");
        if (length > int.MaxValue)
        {
            throw Fault($"metadata '{key}' at offset {_position - 8}: a string of {length} bytes; {_length - _position} bytes are left in the file.");
        }

        Skip(length, $"a string in metadata '{key}'");
    }

    private string Name(string what)
    {
        ulong length = UInt64($"length of a {what}");
        if (length is 0 or > LongestName)
        {
            throw Fault($"a {what} at offset {_position - 8} claims {length} bytes, expected 1 to {LongestName}.");
        }

        ulong begin = _position;
        Skip(length, $"a {what}");
        try
        {
            return new UTF8Encoding(false, throwOnInvalidBytes: true).GetString(_start + begin, (int)length);
        }
        catch (DecoderFallbackException error)
        {
            throw new MalformedFileException(_path, $"the {what} at offset {begin} is not valid UTF-8.", error);
        }
    }

    private uint UInt32(string what)
    {
        ulong begin = _position;
        Skip(4, what);
        return BinaryPrimitives.ReadUInt32LittleEndian(new ReadOnlySpan<byte>(_start + begin, 4));
    }

    private ulong UInt64(string what)
    {
        ulong begin = _position;
        Skip(8, what);
        return BinaryPrimitives.ReadUInt64LittleEndian(new ReadOnlySpan<byte>(_start + begin, 8));
    }

    private void Skip(ulong count, string what)
    {
        if (count > _length - _position)
        {
            throw Fault($"the file ends at byte {_length}, inside the {what} at offset {_position} ({count} bytes). It is truncated: download or write it again.");
        }

        _position += count;
    }

    private readonly MalformedFileException Fault(string message) => new(_path, message);
}
