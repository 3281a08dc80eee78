namespace LoraSharp.Formats.Gguf.Mapping;

/// <summary>A file's settings under its architecture's prefix.</summary>
internal sealed class GgufModelMetadata(GgufShards file, string architecture)
{
    public GgufShards File { get; } = file;

    /// <summary>The setting, or null.</summary>
    public GgufValue? Find(string key) => File.Find($"{architecture}.{key}");

    public bool Has(string key) => Find(key) is not null;

    /// <summary>A whole number; of an array (one a layer) the value all layers share.</summary>
    public int Integer(string key)
    {
        GgufValue value = Find(key) ?? throw new MalformedFileException(File.Location, $"has no metadata '{architecture}.{key}', which the architecture {architecture} needs.");
        if (value.Type != GgufValueType.Array)
        {
            return value.AsInt32();
        }

        long[] values = value.AsIntegers();
        return values.Distinct().Count() == 1
            ? checked((int)values[0])
            : throw new MalformedFileException(File.Location, $"'{architecture}.{key}' differs from layer to layer ({string.Join(", ", values.Take(8))}, ...); such models are not supported.");
    }

    public int? IntegerOrNull(string key) => Has(key) ? Integer(key) : null;

    public double? NumberOrNull(string key) => Find(key)?.AsDouble();
}
