using System.IO.MemoryMappedFiles;
using System.Numerics;

namespace LoraSharp.Formats.Gguf;

/// <summary>
/// One GGUF file (version 2 or 3), mapped into memory: metadata, tensor table, data. The header is checked in full
/// before any data is touched. A model that is split into several files is a <see cref="GgufShards"/>.
/// </summary>
public sealed unsafe class GgufFile : IDisposable
{
    private readonly MemoryMappedFile _file;
    private readonly MemoryMappedViewAccessor _view;
    private readonly byte* _data;
    private bool _disposed;

    private GgufFile(string path)
    {
        Location = path;
        // Not FileInfo.Length of the path: the hub cache consists of links, and that is the length of the link.
        long length = File.ResolveLinkTarget(path, returnFinalTarget: true) is FileInfo target ? target.Length : new FileInfo(path).Length;
        if (length == 0)
        {
            throw new MalformedFileException(path, "is empty, expected a GGUF file. Download or write it again.");
        }

        _file = MemoryMappedFile.CreateFromFile(path, FileMode.Open, null, 0, MemoryMappedFileAccess.Read);
        byte* start = null;
        try
        {
            _view = _file.CreateViewAccessor(0, 0, MemoryMappedFileAccess.Read);
            _view.SafeMemoryMappedViewHandle.AcquirePointer(ref start);
            start += _view.PointerOffset;
            var reader = new GgufHeaderReader(path, start, length);
            reader.ReadPrologue();
            Version = (int)reader.Version;
            Metadata = ReadMetadata(ref reader);
            Tensors = ReadTensors(ref reader);
            long alignment = Alignment();
            DataOffset = checked((reader.Position + alignment - 1) / alignment * alignment);
            CheckPlaces(alignment, length - DataOffset);
            _data = start + DataOffset;
        }
        catch
        {
            Release(start is not null);
            throw;
        }
    }

    /// <summary>The file's path.</summary>
    public string Location { get; }

    /// <summary>Version of the format: 2 or 3.</summary>
    public int Version { get; }

    /// <summary>Metadata by key, e.g. <c>general.architecture</c>.</summary>
    public IReadOnlyDictionary<string, GgufValue> Metadata { get; }

    /// <summary>Every tensor by its name in the file.</summary>
    public IReadOnlyDictionary<string, GgufTensorInfo> Tensors { get; }

    /// <summary>Where the data section begins, in bytes from the start of the file.</summary>
    public long DataOffset { get; }

    /// <summary>Maps a file and checks its header.</summary>
    /// <exception cref="MalformedFileException">The file is missing, truncated or its header lies.</exception>
    public static GgufFile Open(string path)
    {
        if (!File.Exists(path))
        {
            throw new MalformedFileException(path, Directory.Exists(path) ? "is a folder, expected a .gguf file." : "there is no such file.");
        }

        return new GgufFile(path);
    }

    /// <summary>Address of a tensor's bytes in the map; valid until the file is disposed.</summary>
    public byte* Pointer(GgufTensorInfo tensor)
    {
        ArgumentNullException.ThrowIfNull(tensor);
        ThrowIfDisposed();
        return _data + tensor.Offset;
    }

    /// <summary>A metadata value, or null when the key is absent.</summary>
    public GgufValue? Find(string key) => Metadata.TryGetValue(key, out GgufValue value) ? value : null;

    /// <summary>Unmaps the file: no tensor laid over it may be used afterwards.</summary>
    public void Dispose()
    {
        if (!_disposed)
        {
            Release(true);
        }
    }

    internal void ThrowIfDisposed() => ObjectDisposedException.ThrowIf(_disposed, this);

    private void Release(bool acquired)
    {
        _disposed = true;
        if (acquired)
        {
            _view.SafeMemoryMappedViewHandle.ReleasePointer();
        }

        _view?.Dispose();
        _file.Dispose();
    }

    private Dictionary<string, GgufValue> ReadMetadata(ref GgufHeaderReader reader)
    {
        var metadata = new Dictionary<string, GgufValue>(StringComparer.Ordinal);
        for (ulong i = 0; i < reader.KeyCount; i++)
        {
            GgufValue value = reader.ReadValue(this);
            if (!metadata.TryAdd(value.Key, value))
            {
                throw new MalformedFileException(Location, $"names the metadata '{value.Key}' twice.");
            }
        }

        return metadata;
    }

    private Dictionary<string, GgufTensorInfo> ReadTensors(ref GgufHeaderReader reader)
    {
        var tensors = new Dictionary<string, GgufTensorInfo>(StringComparer.Ordinal);
        for (ulong i = 0; i < reader.TensorCount; i++)
        {
            GgufTensorInfo tensor = reader.ReadTensor();
            if (!tensors.TryAdd(tensor.Name, tensor))
            {
                throw new MalformedFileException(Location, $"names the tensor '{tensor.Name}' twice.");
            }
        }

        return tensors;
    }

    private long Alignment()
    {
        if (Find("general.alignment") is not { } value)
        {
            return 32;
        }

        long alignment = value.AsInt64();
        return alignment is > 0 and <= 1 << 30 && BitOperations.IsPow2(alignment)
            ? alignment
            : throw new MalformedFileException(Location, $"general.alignment is {alignment}, expected a power of two.");
    }

    private void CheckPlaces(long alignment, long dataLength)
    {
        long position = 0;
        string previous = "the header";
        foreach (GgufTensorInfo tensor in Tensors.Values.OrderBy(t => t.Offset).ThenBy(t => t.ByteCount))
        {
            if (tensor.Offset % alignment != 0)
            {
                throw new MalformedFileException(Location, $"tensor '{tensor.Name}' begins at byte {tensor.Offset} of the data, which is not a multiple of the alignment {alignment}.");
            }

            if (tensor.ByteCount > 0 && (tensor.Offset > dataLength || tensor.ByteCount > dataLength - tensor.Offset))
            {
                throw new MalformedFileException(
                    Location,
                    $"tensor '{tensor.Name}' ({tensor.Type} [{string.Join(", ", tensor.Shape)}], {tensor.ByteCount} bytes at byte {tensor.Offset} of the data) runs past the end: the file holds {Math.Max(0, dataLength)} bytes of data. The file is truncated: download or write it again.");
            }

            if (tensor.Offset < position)
            {
                throw new MalformedFileException(Location, $"tensor '{tensor.Name}' at bytes {tensor.Offset} to {tensor.Offset + tensor.ByteCount} of the data overlaps {previous}, which ends at {position}.");
            }

            position = tensor.Offset + tensor.ByteCount;
            previous = $"tensor '{tensor.Name}'";
        }
    }
}
