using System.Runtime.InteropServices;
using LoraSharp.Formats.Datasets;
using Microsoft.Win32.SafeHandles;

namespace LoraSharp.Training.Data;

/// <summary>Examples that can be got by number.</summary>
public interface IExamples
{
    /// <summary>How many there are.</summary>
    int Count { get; }

    /// <summary>Tokens of an example, without getting it.</summary>
    int Length(int index);

    /// <summary>An example.</summary>
    TrainingExample this[int index] { get; }

    /// <summary>A number that differs, for all practical purposes, when any token of any example does.</summary>
    ulong Fingerprint { get; }
}

/// <summary>
/// Tokenized rows, in memory while they are few and in a temporary file from there on, so that a data set may be larger
/// than memory and still be shuffled as a whole. Reading is safe from several threads; adding is not.
/// </summary>
public sealed class ExampleStore : IExamples, IDisposable
{
    private readonly long _memoryTokens;
    private readonly string? _folder;
    private readonly List<TrainingExample> _inMemory = [];
    private readonly List<int> _lengths = [];
    private readonly List<long> _offsets = [];
    private readonly List<RowOrigin> _origins = [];
    private SafeFileHandle? _file;
    private long _end;

    /// <summary>Creates an empty store.</summary>
    /// <param name="memoryTokens">Tokens kept in memory (8 bytes each) before the rest goes to a file; default 32 Mi.</param>
    /// <param name="folder">Folder of that file; null for the system's temporary folder.</param>
    public ExampleStore(long memoryTokens = 32 << 20, string? folder = null)
    {
        _memoryTokens = memoryTokens;
        _folder = folder;
    }

    /// <inheritdoc/>
    public int Count => _lengths.Count;

    /// <summary>Tokens of all examples.</summary>
    public long Tokens { get; private set; }

    /// <summary>Tokens that are trained on.</summary>
    public long TargetTokens { get; private set; }

    /// <inheritdoc/>
    public ulong Fingerprint { get; private set; }

    /// <inheritdoc/>
    public int Length(int index) => _lengths[index];

    /// <inheritdoc/>
    public TrainingExample this[int index] => index < _inMemory.Count ? _inMemory[index] : Read(index);

    /// <summary>Adds an example.</summary>
    public void Add(TrainingExample example, RowOrigin origin)
    {
        _lengths.Add(example.InputIds.Length);
        Tokens += example.InputIds.Length;
        TargetTokens += example.TargetTokens;
        Fingerprint = StableRandom.Mix(Fingerprint ^ Hash(example));
        if (_file is null && Tokens <= _memoryTokens)
        {
            _inMemory.Add(example);
        }
        else
        {
            Write(example, origin);
        }
    }

    /// <summary>A hash of an example's tokens.</summary>
    public static ulong HashIds(TrainingExample example)
    {
        ulong hash = (ulong)example.InputIds.Length;
        foreach (int id in example.InputIds)
        {
            hash = StableRandom.Mix(hash ^ ((ulong)(uint)id + 0x9E3779B97F4A7C15));
        }

        return hash;
    }

    /// <inheritdoc/>
    public void Dispose() => _file?.Dispose();

    private static ulong Hash(TrainingExample example)
    {
        ulong hash = HashIds(example);
        foreach (int label in example.Labels)
        {
            hash = StableRandom.Mix(hash ^ (uint)label);
        }

        return hash;
    }

    // Record: flags, then ids, labels, weights (bits of floats) and mask as 32-bit numbers.
    private void Write(TrainingExample example, RowOrigin origin)
    {
        _file ??= File.OpenHandle(Path.Combine(_folder ?? Path.GetTempPath(), $"lorasharp-{Environment.ProcessId}-{Guid.NewGuid():N}.tokens"), FileMode.CreateNew, FileAccess.ReadWrite, FileShare.None, FileOptions.DeleteOnClose);
        int n = example.InputIds.Length;
        int[] record = new int[1 + (n * (2 + (example.Weights is null ? 0 : 1) + (example.Attended is null ? 0 : 1)))];
        record[0] = (example.Weights is null ? 0 : 1) | (example.Attended is null ? 0 : 2);
        example.InputIds.CopyTo(record, 1);
        example.Labels.CopyTo(record, 1 + n);
        int at = 1 + (2 * n);
        if (example.Weights is not null)
        {
            MemoryMarshal.Cast<float, int>(example.Weights.AsSpan()).CopyTo(record.AsSpan(at));
            at += n;
        }

        for (int i = 0; i < (example.Attended?.Length ?? 0); i++)
        {
            record[at + i] = example.Attended![i] ? 1 : 0;
        }

        ReadOnlySpan<byte> bytes = MemoryMarshal.AsBytes<int>(record);
        RandomAccess.Write(_file, bytes, _end);
        _offsets.Add(_end);
        _origins.Add(origin);
        _end += bytes.Length;
    }

    private TrainingExample Read(int index)
    {
        int slot = index - _inMemory.Count;
        int n = _lengths[index];
        long end = slot + 1 < _offsets.Count ? _offsets[slot + 1] : _end;
        int[] record = new int[(end - _offsets[slot]) / sizeof(int)];
        Span<byte> bytes = MemoryMarshal.AsBytes(record.AsSpan());
        for (int done = 0; done < bytes.Length;)
        {
            int read = RandomAccess.Read(_file!, bytes[done..], _offsets[slot] + done);
            done += read > 0 ? read : throw new IOException("the temporary file of tokens ended early.");
        }

        int at = 1 + (2 * n);
        float[]? weights = (record[0] & 1) == 0 ? null : MemoryMarshal.Cast<int, float>(record.AsSpan(at, n)).ToArray();
        at += weights is null ? 0 : n;
        return new TrainingExample
        {
            InputIds = record[1..(1 + n)],
            Labels = record[(1 + n)..(1 + (2 * n))],
            Weights = weights,
            Attended = (record[0] & 2) == 0 ? null : [.. record.AsSpan(at, n).ToArray().Select(m => m == 1)],
            Origin = _origins[slot].ToString(),
        };
    }
}

/// <summary>Some of the examples of another list.</summary>
public sealed class ExampleSubset : IExamples
{
    private readonly IExamples _examples;
    private readonly int[] _indices;

    /// <summary>Creates a view.</summary>
    /// <param name="examples">The list.</param>
    /// <param name="indices">Which of it, in the order of the view.</param>
    public ExampleSubset(IExamples examples, int[] indices)
    {
        _examples = examples;
        _indices = indices;
        ulong hash = examples.Fingerprint;
        foreach (int index in indices)
        {
            hash = StableRandom.Mix(hash ^ (ulong)index);
        }

        Fingerprint = hash;
    }

    /// <inheritdoc/>
    public int Count => _indices.Length;

    /// <inheritdoc/>
    public int Length(int index) => _examples.Length(_indices[index]);

    /// <inheritdoc/>
    public TrainingExample this[int index] => _examples[_indices[index]];

    /// <inheritdoc/>
    public ulong Fingerprint { get; }

    /// <summary>Numbers of the view's examples in the list beneath.</summary>
    public IReadOnlyList<int> Indices => _indices;
}
