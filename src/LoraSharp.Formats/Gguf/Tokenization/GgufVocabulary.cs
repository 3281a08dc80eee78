namespace LoraSharp.Formats.Gguf.Tokenization;

/// <summary><c>tokenizer.ggml.token_type</c>.</summary>
internal enum GgufTokenType
{
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

/// <summary>The tokenizer's part of a file's metadata, decoded and checked.</summary>
internal sealed class GgufVocabulary
{
    // The largest vocabulary in use has some 260,000 tokens.
    private const int MostTokens = 1 << 20;

    private GgufVocabulary(GgufShards file, string model)
    {
        File = file;
        Model = model;
        GgufValue tokens = Need("tokenizer.ggml.tokens");
        Tokens = tokens.Count is > 0 and <= MostTokens
            ? tokens.AsStrings()
            : throw new MalformedFileException(file.Location, $"'{tokens.Key}' has {tokens.Count} entries, expected 1 to {MostTokens}.");
        Types = file.Find("tokenizer.ggml.token_type") is { } types
            ? [.. Same(types).AsIntegers().Select(t => (GgufTokenType)t)]
            : [.. Enumerable.Repeat(GgufTokenType.Normal, Tokens.Length)];
        Scores = file.Find("tokenizer.ggml.scores") is { } scores ? Same(scores).AsFloats() : null;
        Bos = Id("bos");
        Eos = Id("eos");
        Unknown = Id("unknown");
        Padding = Id("padding");
    }

    public GgufShards File { get; }

    /// <summary>gpt2 (byte-level BPE) or llama (SentencePiece BPE).</summary>
    public string Model { get; }

    public string[] Tokens { get; }

    public GgufTokenType[] Types { get; }

    public float[]? Scores { get; }

    public int? Bos { get; }

    public int? Eos { get; }

    public int? Unknown { get; }

    public int? Padding { get; }

    public string PreTokenizerName => File.Find("tokenizer.ggml.pre")?.AsString() ?? "default";

    /// <summary>The vocabulary of a file; null when it carries none.</summary>
    public static GgufVocabulary? Of(GgufShards file)
    {
        string? model = file.Find("tokenizer.ggml.model")?.AsString();
        return model switch
        {
            null or "none" or "no_vocab" => null,
            "gpt2" or "llama" => new GgufVocabulary(file, model),
            _ => throw new MalformedFileException(file.Location, $"has a tokenizer of kind '{model}'; gpt2 (byte-level BPE) and llama (SentencePiece BPE) are supported."),
        };
    }

    public bool? Flag(string name) => File.Find($"tokenizer.ggml.{name}")?.AsBool();

    public GgufValue Need(string key) => File.Find(key) ?? throw new MalformedFileException(File.Location, $"has no metadata '{key}', which a tokenizer of kind '{Model}' needs.");

    private GgufValue Same(GgufValue value) => value.Count == Tokens.Length
        ? value
        : throw new MalformedFileException(File.Location, $"'{value.Key}' has {value.Count} entries, tokenizer.ggml.tokens {Tokens.Length}.");

    private int? Id(string name)
    {
        if (File.Find($"tokenizer.ggml.{name}_token_id") is not { } value)
        {
            return null;
        }

        // Some converters write 2³²−1 for "none".
        long id = value.AsInt64();
        return id is uint.MaxValue or -1 ? null
            : id >= 0 && id < Tokens.Length ? (int)id
            : throw new MalformedFileException(File.Location, $"'{value.Key}' is {id}, the vocabulary has {Tokens.Length} tokens.");
    }
}
