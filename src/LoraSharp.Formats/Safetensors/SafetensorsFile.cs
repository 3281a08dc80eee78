using System.IO.MemoryMappedFiles;

namespace LoraSharp.Formats.Safetensors;

/// <summary>
/// A safetensors file, mapped into memory: 8 bytes header length, JSON header, data
/// (<see href="https://github.com/huggingface/safetensors#format"/>). The header is checked in full before any data is touched.
/// </summary>
public sealed unsafe class SafetensorsFile : ITensorSource
{
    private readonly MemoryMappedFile _file;
    private readonly MemoryMappedViewAccessor _view;
    private readonly byte* _data;
    private readonly SafetensorsHeader _header;
    private bool _disposed;

    private SafetensorsFile(string path, MemoryMappedFile file, MemoryMappedViewAccessor view, byte* start, SafetensorsHeader header)
    {
        Location = path;
        _file = file;
        _view = view;
        _header = header;
        _data = start + header.DataOffset;
        Tensors = header.Tensors.ToDictionary(t => t.Key, t => t.Value.Info, StringComparer.Ordinal);
    }

    /// <inheritdoc/>
    public string Location { get; }

    /// <inheritdoc/>
    public IReadOnlyDictionary<string, TensorInfo> Tensors { get; }

    /// <summary>The free-form <c>__metadata__</c>; empty when there is none.</summary>
    public IReadOnlyDictionary<string, string> Metadata => _header.Metadata;

    /// <summary>Maps a file and checks its header.</summary>
    /// <exception cref="MalformedFileException">The file is missing, truncated or its header lies.</exception>
    public static SafetensorsFile Open(string path)
    {
        if (!File.Exists(path))
        {
            throw new MalformedFileException(path, Directory.Exists(path) ? "is a folder, expected a .safetensors file." : "there is no such file.");
        }

        using (FileStream stream = File.OpenRead(path))
        {
            // Not FileInfo.Length: the hub cache consists of links, and that is the length of the link.
            long length = stream.Length;
            SafetensorsHeader header = SafetensorsHeader.Read(path, stream, length);
            MemoryMappedFile file = MemoryMappedFile.CreateFromFile(path, FileMode.Open, null, 0, MemoryMappedFileAccess.Read);
            MemoryMappedViewAccessor view = file.CreateViewAccessor(0, 0, MemoryMappedFileAccess.Read);
            byte* start = null;
            view.SafeMemoryMappedViewHandle.AcquirePointer(ref start);
            return new SafetensorsFile(path, file, view, start + view.PointerOffset, header);
        }
    }

    /// <inheritdoc/>
    public TensorData Read(string name)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        if (!_header.Tensors.TryGetValue(name, out SafetensorsEntry? entry))
        {
            throw new MalformedFileException(Location, $"has no tensor '{name}'. It holds {Tensors.Count}, the first being {string.Join(", ", Tensors.Keys.Order(StringComparer.Ordinal).Take(5))}.");
        }

        return new TensorData(entry.Info, _data + entry.Begin);
    }

    /// <summary>Unmaps the file: no tensor laid over it may be used afterwards.</summary>
    public void Dispose()
    {
        if (!_disposed)
        {
            _disposed = true;
            _view.SafeMemoryMappedViewHandle.ReleasePointer();
            _view.Dispose();
            _file.Dispose();
        }
    }
}
