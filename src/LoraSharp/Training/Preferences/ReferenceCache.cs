using System.Runtime.InteropServices;
using System.Security.Cryptography;
using LoraSharp.Formats;
using LoraSharp.Training.Data;

namespace LoraSharp.Training.Preferences;

/// <summary>
/// Log-probabilities under the reference by the row's tokens and labels: the reference never changes, so each row is run
/// through it once, whatever the number of epochs. With a file they outlive the run, and a run that goes on uses the very
/// same numbers.
/// </summary>
public sealed class ReferenceCache
{
    private const int KeyBytes = 32;
    private const int EntryBytes = KeyBytes + sizeof(double);
    private static ReadOnlySpan<byte> Magic => "LSREF001"u8;
    private readonly Dictionary<string, double> _known = new(StringComparer.Ordinal);
    private readonly string? _path;

    /// <summary>Creates a cache.</summary>
    /// <param name="path">File that is read now and added to; null for memory only.</param>
    /// <param name="identity">What the numbers depend on besides the rows (model, type): part of every key.</param>
    /// <exception cref="MalformedFileException">The file is something else.</exception>
    public ReferenceCache(string? path = null, string identity = "")
    {
        _path = path;
        Identity = identity;
        if (path is not null && File.Exists(path))
        {
            Read(path);
        }
    }

    /// <summary>Part of every key.</summary>
    public string Identity { get; }

    /// <summary>Rows known.</summary>
    public int Count => _known.Count;

    /// <summary>Key of one row of a micro-batch.</summary>
    /// <param name="batch">The micro-batch.</param>
    /// <param name="row">Which row.</param>
    /// <param name="isMean">Whether the value is a mean over tokens instead of their sum.</param>
    public string KeyOf(MicroBatch batch, int row, bool isMean)
    {
        ArgumentNullException.ThrowIfNull(batch);
        int start = row * batch.Length;
        int length = batch.Length;
        while (length > 0 && batch.Sequences[start + length - 1] == 0)
        {
            length--;
        }

        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        hash.AppendData(System.Text.Encoding.UTF8.GetBytes($"{Identity}\0{isMean}\0"));
        hash.AppendData(MemoryMarshal.AsBytes(batch.InputIds.AsSpan(start, length)));
        hash.AppendData(MemoryMarshal.AsBytes(batch.Labels.AsSpan(start, length)));
        return Convert.ToHexString(hash.GetHashAndReset());
    }

    /// <summary>The value, where it is known.</summary>
    public bool TryGet(string key, out double value) => _known.TryGetValue(key, out value);

    /// <summary>Remembers values, in the file too.</summary>
    public void Add(IEnumerable<KeyValuePair<string, double>> values)
    {
        KeyValuePair<string, double>[] fresh = [.. values.Where(v => _known.TryAdd(v.Key, v.Value))];
        if (_path is null || fresh.Length == 0)
        {
            return;
        }

        // Added at the end: a kill can at worst leave half an entry there, which the next run drops.
        using var stream = new FileStream(_path, FileMode.Append, FileAccess.Write);
        if (stream.Position == 0)
        {
            stream.Write(Magic);
        }

        foreach ((string key, double value) in fresh)
        {
            byte[] entry = [.. Convert.FromHexString(key), .. BitConverter.GetBytes(value)];
            stream.Write(entry);
        }
    }

    private void Read(string path)
    {
        byte[] all = File.ReadAllBytes(path);
        if (!all.AsSpan().StartsWith(Magic))
        {
            throw new MalformedFileException(path, "is no cache of reference log-probabilities. Delete it; it is made anew.");
        }

        int whole = Magic.Length + ((all.Length - Magic.Length) / EntryBytes * EntryBytes);
        for (int at = Magic.Length; at < whole; at += EntryBytes)
        {
            _known[Convert.ToHexString(all, at, KeyBytes)] = BitConverter.ToDouble(all, at + KeyBytes);
        }

        if (whole < all.Length)
        {
            using var stream = new FileStream(path, FileMode.Open, FileAccess.Write);
            stream.SetLength(whole);
        }
    }
}
