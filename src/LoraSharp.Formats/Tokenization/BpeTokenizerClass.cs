namespace LoraSharp.Formats.Tokenization;

/// <summary>
/// How a tokenizer class of transformers works with <c>vocab.json</c> and <c>merges.txt</c>: what those two files leave
/// unsaid. Facts from transformers' own classes (version 5, and version 4's converters, which agree).
/// </summary>
/// <param name="Names">The class names, without the ending Fast.</param>
/// <param name="Defaults">Tokens of a role where no file names another.</param>
internal sealed record BpeTokenizerClass(string[] Names, (string Role, string Token)[] Defaults)
{
    private const string EndOfText = "<|endoftext|>";

    private static readonly BpeTokenizerClass[] Table =
    [
        new(["GPT2Tokenizer", "CodeGenTokenizer"], [("bos_token", EndOfText), ("eos_token", EndOfText), ("unk_token", EndOfText)]),
        new(["Qwen2Tokenizer"], [("eos_token", EndOfText), ("unk_token", EndOfText), ("pad_token", EndOfText)]) { Normalizer = "NFC", CutsAsQwen2 = true },
        new(["GPTNeoXTokenizer"], [("bos_token", EndOfText), ("eos_token", EndOfText), ("unk_token", EndOfText), ("pad_token", "<|padding|>")]) { Normalizer = "NFC" },
        new(
            ["RobertaTokenizer", "BartTokenizer", "LongformerTokenizer", "LEDTokenizer"],
            [("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>"), ("sep_token", "</s>"), ("pad_token", "<pad>"), ("cls_token", "<s>"), ("mask_token", "<mask>")])
        {
            EnclosesText = true,
        },
    ];

    // The class of a model type, for folders without tokenizer_config.json.
    private static readonly (string Class, string[] ModelTypes)[] ByModelType =
    [
        ("GPT2Tokenizer", ["gpt2", "gpt_neo", "gptj", "gpt_bigcode", "opt", "phi", "codegen", "starcoder2", "granite", "granitemoe", "granitemoeshared", "granitemoehybrid", "exaone4", "olmo3", "dbrx"]),
        ("Qwen2Tokenizer", ["qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "qwen3_next"]),
        ("GPTNeoXTokenizer", ["gpt_neox", "stablelm", "olmo", "olmo2", "olmoe", "mpt", "mamba", "mamba2", "falcon_mamba", "rwkv"]),
        ("RobertaTokenizer", ["roberta", "bart"]),
    ];

    /// <summary>The Unicode normal form applied first; null: none.</summary>
    public string? Normalizer { get; init; }

    /// <summary>Whether text is cut by Qwen2's expression; otherwise by GPT-2's.</summary>
    public bool CutsAsQwen2 { get; init; }

    /// <summary>Whether a text stands between cls and sep, and the mask token takes the blank before it.</summary>
    public bool EnclosesText { get; init; }

    /// <summary>Names of all classes, for messages.</summary>
    public static IEnumerable<string> AllNames => Table.SelectMany(entry => entry.Names);

    /// <summary>The class of a name, with or without Fast at its end; null when it is none of these.</summary>
    public static BpeTokenizerClass? Of(string name)
    {
        string plain = name.EndsWith("Fast", StringComparison.Ordinal) ? name[..^4] : name;
        return Array.Find(Table, entry => entry.Names.Contains(plain));
    }

    /// <summary>The class that transformers takes for a model type; null when it is none of these.</summary>
    public static BpeTokenizerClass? OfModelType(string? modelType) =>
        Array.Find(ByModelType, entry => entry.ModelTypes.Contains(modelType)).Class is { } name ? Of(name) : null;
}
