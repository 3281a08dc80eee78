using System.Buffers.Binary;
using System.Security.Cryptography;
using System.Text;
using LoraSharp.Formats;

namespace LoraSharp.Adapters;

/// <summary>
/// A short name for a base model's weights: hashes over names and shapes, over the types they are stored in, and over
/// samples of the data.
/// </summary>
/// <param name="Shapes">SHA-256 over sorted names and shapes, 32 hexadecimal digits; the same for every storage of a model.</param>
/// <param name="Types">SHA-256 over the element types in that order; data are comparable only where these are equal.</param>
/// <param name="Data">SHA-256 over the first and last kilobyte of each tensor; empty where tensors are made on reading (GGUF, 4 bits).</param>
public sealed record BaseFingerprint(string Shapes, string Types, string Data)
{
    private const int Sample = 1024;
    private const string ShapesKey = "lorasharp.base_shapes";
    private const string TypesKey = "lorasharp.base_types";
    private const string DataKey = "lorasharp.base_data";

    /// <summary>What an adapter's metadata record; null where they record nothing.</summary>
    public static BaseFingerprint? Read(IReadOnlyDictionary<string, string> metadata)
    {
        ArgumentNullException.ThrowIfNull(metadata);
        return metadata.TryGetValue(ShapesKey, out string? shapes)
            ? new(shapes, metadata.GetValueOrDefault(TypesKey, string.Empty), metadata.GetValueOrDefault(DataKey, string.Empty))
            : null;
    }

    /// <summary>Reads a few pages of each tensor.</summary>
    public static BaseFingerprint Of(ITensorSource source)
    {
        ArgumentNullException.ThrowIfNull(source);
        using var shapes = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        using var types = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        using var data = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        bool isStored = true;
        Span<byte> number = stackalloc byte[8];
        // By the names in the file, whatever a view of it calls them.
        foreach ((string stored, string name, TensorInfo info) in source.Tensors
            .Select(t => (Stored: source.UnderlyingName(t.Key), t.Key, t.Value)).OrderBy(t => t.Stored, StringComparer.Ordinal))
        {
            shapes.AppendData(Encoding.UTF8.GetBytes($"{stored} {info.ShapeText}\n"));
            BinaryPrimitives.WriteInt64LittleEndian(number, (long)info.Type);
            types.AppendData(number);
            // What is dequantised on reading would cost a whole pass over the model.
            isStored = isStored && AppendSample(data, source, name, info);
        }

        return new(Digits(shapes), Digits(types), isStored ? Digits(data) : string.Empty);
    }

    /// <summary>As strings for the metadata of a safetensors file.</summary>
    public IEnumerable<KeyValuePair<string, string>> ToMetadata()
    {
        yield return new(ShapesKey, Shapes);
        if (Data.Length > 0)
        {
            yield return new(TypesKey, Types);
            yield return new(DataKey, Data);
        }
    }

    /// <summary>Compares with the base that an adapter's metadata record.</summary>
    /// <returns>Null when nothing speaks against this base, which is so when nothing is recorded (adapters of PEFT).</returns>
    public BaseMismatch? Compare(IReadOnlyDictionary<string, string> metadata)
    {
        ArgumentNullException.ThrowIfNull(metadata);
        string? data = metadata.GetValueOrDefault(DataKey);
        bool bothStored = data is not null && Data.Length > 0;
        if (metadata.GetValueOrDefault(ShapesKey) is { } shapes && shapes != Shapes)
        {
            // Converters leave out what follows from the rest, so another file format may name other tensors.
            return new($"it was made on a base whose tensors have other names or shapes (recorded {Short(shapes)}, this base {Short(Shapes)})", bothStored);
        }

        if (!bothStored || data == Data)
        {
            return null;
        }

        return metadata.GetValueOrDefault(TypesKey) == Types
            ? new($"it was made on a base of the same shapes with other weights (recorded {Short(data!)}, this base {Short(Data)})", true)
            : new("it was made on a base of the same shapes that was stored in another type, so whether it is this one can't be seen", false);
    }

    private static bool AppendSample(IncrementalHash hash, ITensorSource source, string name, TensorInfo info)
    {
        if (info.ByteCount == 0)
        {
            return true;
        }

        TensorData bytes = source.Read(name);
        if (!bytes.IsMapped)
        {
            return false;
        }

        int length = (int)Math.Min(Sample, info.ByteCount);
        hash.AppendData(bytes.Slice(0, length));
        hash.AppendData(bytes.Slice(info.ByteCount - length, length));
        return true;
    }

    private static string Short(string digits) => digits[..Math.Min(8, digits.Length)];

    private static string Digits(IncrementalHash hash) => Convert.ToHexStringLower(hash.GetHashAndReset())[..32];
}

/// <summary>Why an adapter may not belong to a base.</summary>
/// <param name="Reason">In words, to follow a colon.</param>
/// <param name="IsCertain">False where the two can't be compared well enough to refuse it.</param>
public sealed record BaseMismatch(string Reason, bool IsCertain)
{
    /// <summary>
    /// Refuses an adapter that certainly belongs to another base.
    /// </summary>
    /// <param name="location">The adapter's.</param>
    /// <param name="baseModel">The base that it names, or null.</param>
    /// <param name="accepted">Whether the user takes it all the same.</param>
    /// <returns>The warning that remains.</returns>
    /// <exception cref="LoraSharpException">It is certain, and not accepted.</exception>
    public string Settle(string location, string? baseModel, bool accepted) => IsCertain && !accepted
        ? throw new LoraSharpException(
            $"{location}: {Reason}, and over another base it would answer wrongly without a sign.{(baseModel is null ? string.Empty : $" It names {baseModel}.")} Give the base that it was made on, or --any-base (AcceptOtherBases) if you know that it fits.")
        : $"{location}: {Reason}.";
}
