using System.Text.Json;
using System.Text.Json.Nodes;
using LoraSharp.Formats;
using LoraSharp.Formats.Chat;
using LoraSharp.Formats.Gguf;
using LoraSharp.Formats.Hub;
using LoraSharp.Formats.Tokenization;

namespace LoraSharp;

/// <summary>What a model reads and writes, without its weights: tokenizer and chat template, each null where the model has none.</summary>
/// <param name="Tokenizer">Its tokenizer.</param>
/// <param name="ChatTemplate">Its chat template.</param>
public sealed record ModelLanguage(Tokenizer? Tokenizer, ChatTemplate? ChatTemplate)
{
    /// <summary>Reads the files beside the weights; no weight is touched.</summary>
    /// <param name="model">A Hugging Face folder, a .gguf file, or a hub name in the local cache.</param>
    /// <exception cref="LoraSharpException">There is no such model, or a file of it is malformed.</exception>
    public static ModelLanguage Open(string model)
    {
        ArgumentException.ThrowIfNullOrEmpty(model);
        string folder = HubCache.FromEnvironment().Locate(model);
        if (model.EndsWith(".gguf", StringComparison.OrdinalIgnoreCase) && File.Exists(model))
        {
            return FromGguf(model);
        }

        if (!Directory.Exists(folder))
        {
            throw new MalformedFileException(folder, "there is no such model. Expected a Hugging Face folder with config.json, a .gguf file, or a hub name in the local cache.");
        }

        return new ModelLanguage(TokenizerLoader.IsIn(folder) ? TokenizerLoader.FromFolder(folder) : null, ChatTemplate.FromFolder(folder));
    }

    private static ModelLanguage FromGguf(string path)
    {
        using GgufCheckpoint file = GgufCheckpoint.Open(path);
        JsonObject config = file.TokenizerConfig() ?? [];
        string? bos = (string?)config["bos_token"];
        string? eos = (string?)config["eos_token"];
        return new ModelLanguage(
            file.TokenizerJson() is { } json ? TokenizerLoader.FromTokenizerJson(JsonSerializer.SerializeToUtf8Bytes(json), bos, eos, (string?)config["pad_token"], path) : null,
            file.ChatTemplate is { } template ? ChatTemplate.Parse(template, bos, eos) : null);
    }
}
