using System.Text.Json.Nodes;

namespace LoraSharp.Formats.Gguf.Mapping;

/// <summary>
/// One row of the table between GGUF and Hugging Face: names of tensors, names of settings, and the few things that
/// take code. Both directions (reading, writing) and adapters use the same row.
/// </summary>
internal sealed record GgufArchitecture
{
    /// <summary><c>general.architecture</c>.</summary>
    public required string Name { get; init; }

    /// <summary><c>model_type</c> of the config.json that is made from a file.</summary>
    public required string ModelType { get; init; }

    /// <summary><c>architectures[0]</c> of that config.json.</summary>
    public required string ClassName { get; init; }

    /// <summary>Tensor names.</summary>
    public required IReadOnlyList<GgufTensorRule> Tensors { get; init; }

    /// <summary>Settings that both sides have.</summary>
    public required IReadOnlyList<GgufField> Fields { get; init; }

    /// <summary>
    /// What the architecture stands for in llama.cpp without saying so: written into config.json as it is, and demanded
    /// of a config.json that is to be exported (a key that is absent there agrees).
    /// </summary>
    public IReadOnlyDictionary<string, JsonNode?> Constants { get; init; } = new Dictionary<string, JsonNode?>();

    /// <summary>Key of the size of a head in config.json; null where it is always hidden size / heads.</summary>
    public string? HeadSizeKey { get; init; }

    /// <summary>Whether only a part of each head may be rotated (<c>partial_rotary_factor</c>).</summary>
    public bool PartialRotary { get; init; }

    /// <summary>False for models with learned positions.</summary>
    public bool HasRope { get; init; } = true;

    /// <summary>Whether the output may be the embedding; false: <c>output.weight</c> is always there.</summary>
    public bool MayTie { get; init; } = true;

    /// <summary>Settings that the fields do not cover, from the file.</summary>
    public Action<GgufModelMetadata, JsonObject>? ReadMore { get; init; }

    /// <summary>The same from config.json into the file.</summary>
    public Action<GgufModelConfig, GgufMetadataWriter>? WriteMore { get; init; }
}
