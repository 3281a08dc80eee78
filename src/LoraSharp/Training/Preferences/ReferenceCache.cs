using System.Runtime.InteropServices;
using System.Security.Cryptography;
using LoraSharp.Formats;
using LoraSharp.Training.Data;

namespace LoraSharp.Training.Preferences;

/// <summary>
/// Log-probabilities under the reference by the row's tokens and labels: the reference never changes, so each row is run
/// through it once, whatever the number of epochs. With a file the next run starts with them.
/// </summary>
public sealed class ReferenceCache
{
    private const int KeyBytes = 32;
    private const int EntryBytes = KeyBytes + sizeof(double);
    private readonly Dictionary<string, double> _known = new(StringComparer.Ordinal);
    private readonly string? _path;

    /// <summary>Creates a cache.</summary>
    /// <param name="path">File that is read now and written by <see cref="Save"/>; null for memory only.</param>
    /// <param name="identity">What the numbers depend on besides the rows (model, type): part of every key.</param>
    public ReferenceCache(string? path = null, string identity = "")
    {
        _path = path;
        Identity = identity;
        if (path is not null && File.Exists(path))
        {
            byte[] all = File.ReadAllBytes(path);
            if (all.Length % EntryBytes != 0)
            {
                throw new MalformedFileException(path, $"is no cache of reference log-probabilities: {all.Length} bytes, expected a multiple of {EntryBytes}. Delete it; it is made anew.");
            }

            for (int at = 0; at < all.Length; at += EntryBytes)
            {
                _known[Convert.ToHexString(all, at, KeyBytes)] = BitConverter.ToDouble(all, at + KeyBytes);
            }
        }
    }

    /// <summary>Part of every key.</summary>
    public string Identity { get; }

    /// <summary>Rows known.</summary>
    public int Count => _known.Count;

    /// <summary>Key of one row of a micro-batch.</summary>
    public string KeyOf(MicroBatch batch, int row)
    {
        ArgumentNullException.ThrowIfNull(batch);
        int start = row * batch.Length;
        int length = batch.Length;
        while (length > 0 && batch.Sequences[start + length - 1] == 0)
        {
            length--;
        }

        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        hash.AppendData(System.Text.Encoding.UTF8.GetBytes(Identity));
        hash.AppendData(MemoryMarshal.AsBytes(batch.InputIds.AsSpan(start, length)));
        hash.AppendData(MemoryMarshal.AsBytes(batch.Labels.AsSpan(start, length)));
        return Convert.ToHexString(hash.GetHashAndReset());
    }

    /// <summary>The value, where it is known.</summary>
    public bool TryGet(string key, out double value) => _known.TryGetValue(key, out value);

    /// <summary>Remembers a value.</summary>
    public void Add(string key, double value) => _known[key] = value;

    /// <summary>Writes the file, if there is one.</summary>
    public void Save()
    {
        if (_path is not null)
        {
            AtomicFile.Write(_path, stream =>
            {
                foreach ((string key, double value) in _known.OrderBy(k => k.Key, StringComparer.Ordinal))
                {
                    stream.Write(Convert.FromHexString(key));
                    stream.Write(BitConverter.GetBytes(value));
                }
            });
        }
    }
}
