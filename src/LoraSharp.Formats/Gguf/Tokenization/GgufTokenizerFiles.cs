using System.Text.Json.Nodes;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Formats.Tokenization;

namespace LoraSharp.Formats.Gguf.Tokenization;

/// <summary>What an export needs of a model's tokenizer: the files of a Hugging Face folder, or another GGUF file's metadata.</summary>
public sealed record GgufTokenizerFiles
{
    /// <summary>tokenizer.json, or what vocab.json and merges.txt say as such.</summary>
    public JsonObject? TokenizerJson { get; init; }

    /// <summary>tokenizer_config.json.</summary>
    public JsonObject? TokenizerConfig { get; init; }

    /// <summary>tokenizer.model, SentencePiece's own file.</summary>
    public byte[]? SentencePieceModel { get; init; }

    /// <summary>The Jinja source of the chat template.</summary>
    public string? ChatTemplate { get; init; }

    /// <summary>generation_config.json, for its end-of-sequence ids.</summary>
    public JsonObject? GenerationConfig { get; init; }

    /// <summary>A GGUF file whose <c>tokenizer.*</c> metadata is taken as it is.</summary>
    public GgufShards? Gguf { get; init; }

    /// <summary>The files of a model, wherever it lies.</summary>
    public static GgufTokenizerFiles Of(ModelSource model)
    {
        ArgumentNullException.ThrowIfNull(model);
        return model.Tensors is GgufCheckpoint checkpoint ? new GgufTokenizerFiles { Gguf = checkpoint.File } : FromFolder(model.Location);
    }

    /// <summary>The files of a folder; those that are absent are null.</summary>
    public static GgufTokenizerFiles FromFolder(string folder)
    {
        JsonObject? config = Json("tokenizer_config.json");
        string template = Path.Combine(folder, "chat_template.jinja");
        string sentencePiece = Path.Combine(folder, "tokenizer.model");
        return new GgufTokenizerFiles
        {
            TokenizerJson = TokenizerLoader.JsonOf(folder),
            TokenizerConfig = config,
            GenerationConfig = Json("generation_config.json"),
            SentencePieceModel = File.Exists(sentencePiece) ? File.ReadAllBytes(sentencePiece) : null,
            ChatTemplate = File.Exists(template) ? File.ReadAllText(template) : Template(config?["chat_template"]),
        };

        JsonObject? Json(string name) => File.Exists(Path.Combine(folder, name)) ? JsonFile.ReadObject(Path.Combine(folder, name)) : null;
    }

    /// <summary>Of several named templates the one called default.</summary>
    private static string? Template(JsonNode? node) => node switch
    {
        JsonValue value when value.TryGetValue(out string? text) => text,
        JsonArray list => (string?)list.OfType<JsonObject>().FirstOrDefault(t => (string?)t["name"] == "default")?["template"],
        _ => null,
    };
}
