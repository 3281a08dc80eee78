namespace LoraSharp.Formats.Tokenization;

/// <summary>Builds a model's tokenizer from the files beside it.</summary>
public static class TokenizerLoader
{
    /// <summary>The tokenizer of a Hugging Face model folder.</summary>
    /// <param name="folder">
    /// A folder with <c>tokenizer.json</c>, or with <c>tokenizer.model</c> (SentencePiece) alone. <c>tokenizer_config.json</c>
    /// and <c>special_tokens_map.json</c> say which tokens begin, end and pad a sequence.
    /// </param>
    /// <exception cref="MalformedFileException">There is no tokenizer, or a file of it is malformed.</exception>
    public static Tokenizer FromFolder(string folder)
    {
        string path = Path.Combine(folder, "tokenizer.json");
        string pieces = Path.Combine(folder, "tokenizer.model");
        TokenizerRoles roles = TokenizerRoles.FromFolder(folder);
        if (File.Exists(path))
        {
            return Build(TokenizerJson.Read(File.ReadAllBytes(path), path), roles);
        }

        if (!File.Exists(pieces))
        {
            throw new MalformedFileException(folder, "there is no tokenizer here. Expected tokenizer.json or tokenizer.model.");
        }

        var converted = SentencePieceConverter.Convert(File.ReadAllBytes(pieces), pieces, roles);
        return Build(TokenizerJson.Read(System.Text.Encoding.UTF8.GetBytes(converted.Json.ToJsonString()), pieces), roles with { Special = converted.Special });
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
