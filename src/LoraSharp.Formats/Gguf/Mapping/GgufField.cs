namespace LoraSharp.Formats.Gguf.Mapping;

/// <summary>What a configuration value is in the file.</summary>
internal enum GgufFieldKind
{
    /// <summary>u32.</summary>
    Integer,

    /// <summary>f32.</summary>
    Number,

    /// <summary>bool.</summary>
    Flag,
}

/// <summary>A setting that stands in both worlds under different names.</summary>
/// <param name="HuggingFace">Key in config.json.</param>
/// <param name="Gguf">Key in the metadata without the architecture's prefix.</param>
/// <param name="Kind">Its type in the file.</param>
/// <param name="IsRequired">Whether a file without it is malformed.</param>
internal sealed record GgufField(string HuggingFace, string Gguf, GgufFieldKind Kind = GgufFieldKind.Integer, bool IsRequired = true)
{
    /// <summary>A second key in config.json: the one of these that is there is read, both are written.</summary>
    public string? Alias { get; init; }
}
