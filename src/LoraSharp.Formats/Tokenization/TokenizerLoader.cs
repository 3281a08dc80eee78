using System.Text.Json.Nodes;
using LoraSharp.Formats.HuggingFace;

namespace LoraSharp.Formats.Tokenization;

/// <summary>Builds a model's tokenizer from the files beside it.</summary>
public static class TokenizerLoader
{
    /// <summary>What a folder must hold, for messages.</summary>
    public const string Expected = "tokenizer.json, tokenizer.model, or vocab.json with merges.txt";

    private const string TokenizerFile = "tokenizer.json";
    private const string PiecesFile = "tokenizer.model";

    /// <summary>The tokenizer of a Hugging Face model folder.</summary>
    /// <param name="folder">
    /// A folder with <c>tokenizer.json</c>, with <c>tokenizer.model</c> (SentencePiece) alone, or with <c>vocab.json</c> and
    /// <c>merges.txt</c>; the first of these that is there. <c>tokenizer_config.json</c> and <c>special_tokens_map.json</c>
    /// say which tokens begin, end and pad a sequence, and of what class vocabulary and merges are.
    /// </param>
    /// <exception cref="MalformedFileException">There is no tokenizer, or a file of it is malformed.</exception>
    public static Tokenizer FromFolder(string folder)
    {
        string path = Path.Combine(folder, TokenizerFile);
        TokenizerRoles roles = TokenizerRoles.FromFolder(folder);
        if (File.Exists(path))
        {
            return Build(TokenizerJson.Read(File.ReadAllBytes(path), path), roles);
        }

        if (Converted(folder, roles) is not { } converted)
        {
            throw new MalformedFileException(folder, Directory.Exists(folder)
                ? $"there is no tokenizer here. Expected {Expected}."
                : $"there is no such folder. Expected a model folder with {Expected}, or a .gguf file.");
        }

        return Build(TokenizerJson.Read(System.Text.Encoding.UTF8.GetBytes(converted.Json.ToJsonString()), converted.Source), roles with { Special = converted.Special });
    }

    /// <summary>Whether a folder holds a tokenizer that <see cref="FromFolder"/> reads.</summary>
    public static bool IsIn(string folder) =>
        File.Exists(Path.Combine(folder, TokenizerFile)) || File.Exists(Path.Combine(folder, PiecesFile)) || BpeFilesConverter.Applies(folder);

    /// <summary>A folder's <c>tokenizer.json</c>, or the one made from <c>vocab.json</c> and <c>merges.txt</c>; null without either.</summary>
    /// <exception cref="MalformedFileException">A file is malformed.</exception>
    internal static JsonObject? JsonOf(string folder)
    {
        string path = Path.Combine(folder, TokenizerFile);
        return File.Exists(path) ? JsonFile.ReadObject(path)
            : !File.Exists(Path.Combine(folder, PiecesFile)) && BpeFilesConverter.Applies(folder) ? BpeFilesConverter.Convert(folder, TokenizerRoles.FromFolder(folder)).Json
            : null;
    }

    private static (JsonObject Json, SpecialTokens Special, string Source)? Converted(string folder, TokenizerRoles roles)
    {
        string pieces = Path.Combine(folder, PiecesFile);
        if (File.Exists(pieces))
        {
            var model = SentencePieceConverter.Convert(File.ReadAllBytes(pieces), pieces, roles);
            return (model.Json, model.Special, pieces);
        }

        if (!BpeFilesConverter.Applies(folder))
        {
            return null;
        }

        var files = BpeFilesConverter.Convert(folder, roles);
        return (files.Json, files.Special, Path.Combine(folder, BpeFilesConverter.VocabularyFile));
    }

    /// <summary>A tokenizer from the text of a <c>tokenizer.json</c>.</summary>
    /// <param name="utf8">The JSON.</param>
    /// <param name="bos">Token that begins a sequence, if any.</param>
    /// <param name="eos">Token that ends a sequence, if any.</param>
    /// <param name="pad">Token that pads, if any.</param>
    /// <param name="source">What to call it in errors.</param>
    /// <exception cref="MalformedFileException">It is no valid <c>tokenizer.json</c>.</exception>
    public static Tokenizer FromTokenizerJson(ReadOnlySpan<byte> utf8, string? bos = null, string? eos = null, string? pad = null, string source = "tokenizer.json") =>
        Build(TokenizerJson.Read(utf8, source), new TokenizerRoles { Special = new SpecialTokens(bos, eos, pad) });

    private static PipelineTokenizer Build(TokenizerParts parts, TokenizerRoles roles) =>
        new(parts, roles.Special);
}
