using System.Text.Json.Nodes;

namespace LoraSharp.Formats.Gguf.Tokenization;

/// <summary>
/// What <c>tokenizer.ggml.pre</c> stands for: the regular expressions that cut text before byte-level BPE. They are
/// written as the models' own tokenizer.json have them; llama.cpp's differ in spelling only.
/// </summary>
/// <param name="Names">The names; the first is the one that is written.</param>
/// <param name="Expressions">Applied one after the other, matches and the text between them kept apart.</param>
internal sealed record GgufPreTokenizer(string[] Names, string[] Expressions)
{
    private const string Contractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
    private const string Gpt2 = @"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
    private const string Llama3 = Contractions + @"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    private const string Qwen2 = Contractions + @"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    private const string Upper = @"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]";
    private const string Lower = @"[\p{Ll}\p{Lm}\p{Lo}\p{M}]";
    private const string Tail = @" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    private const string Tekken = @"[^\r\n\p{L}\p{N}]?" + Upper + "*" + Lower + @"+|[^\r\n\p{L}\p{N}]?" + Upper + "+" + Lower + @"*|\p{N}|" + Tail;
    private const string Gpt4O = @"[^\r\n\p{L}\p{N}]?" + Upper + "*" + Lower + "+" + Contractions + @"?|[^\r\n\p{L}\p{N}]?" + Upper + "+" + Lower + "*" + Contractions + @"?|\p{N}{1,3}|" + Tail;

    private static readonly GgufPreTokenizer[] Table =
    [
        new(["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"], [Llama3]) { IgnoresMerges = true, AddsBos = true },
        new(["qwen2", "deepseek-r1-qwen"], [Qwen2]) { Normalizer = "NFC" },
        new(["stablelm2", "megrez", "hunyuan", "grok-2", "kormo", "solar-open"], [Qwen2]),
        new(["smollm", "starcoder", "refact", "codeshell", "exaone", "minerva-7b"], [@"\p{N}", Gpt2]) { IsDigitsThenGpt2 = true },
        new(["command-r"], [@"\p{N}", Gpt2]) { IsDigitsThenGpt2 = true, Normalizer = "NFC" },
        new(["gpt-2", "phi-2", "mpt", "jais", "trillion", "granite-docling", "gigachat"], [Gpt2]),
        new(["olmo"], [Gpt2]) { Normalizer = "NFC" },
        new(["dbrx", "smaug-bpe", "chatglm-bpe", "glm4"], [Llama3]),
        new(["tekken"], [Tekken]) { IgnoresMerges = true, AddsBos = true },
        new(["gpt-4o", "llama4", "kanana2"], [Gpt4O]),
        new(["falcon"], [@"[\p{P}\$\+<=>\^~\|`]+", Gpt2, "[0-9][0-9][0-9]"]),
        new(["deepseek-coder"], [@"[\r\n]", @"\s?\p{L}+", @"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", @"\p{N}"]),
        new(["deepseek-v3", "hunyuan-dense"], [@"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", @"[!""#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"]),
        new(["default"], [@"[\p{P}\$\+<=>\^~\|]+", Gpt2, @"\p{N}+", "[0-9][0-9][0-9]"]),
    ];

    /// <summary>Whole words in the vocabulary are taken before any merge is tried.</summary>
    public bool IgnoresMerges { get; init; }

    /// <summary>Whether a file that does not say so has a BOS put in front.</summary>
    public bool AddsBos { get; init; }

    /// <summary>Unicode normal form the model's own tokenizer applies first; llama.cpp leaves it out.</summary>
    public string? Normalizer { get; init; }

    /// <summary>Written as the two steps the models' tokenizer.json have, rather than as expressions.</summary>
    public bool IsDigitsThenGpt2 { get; init; }

    /// <summary>The entry of a name; null when it is not in the table.</summary>
    public static GgufPreTokenizer? Of(string name) => Table.FirstOrDefault(t => t.Names.Contains(name));

    /// <summary>All names, for messages.</summary>
    public static IEnumerable<string> AllNames => Table.SelectMany(t => t.Names);

    /// <summary>The entry that a tokenizer.json's <c>pre_tokenizer</c> answers to; null when none does.</summary>
    public static GgufPreTokenizer? Matching(JsonObject tokenizer)
    {
        string[]? expressions = ExpressionsOf(tokenizer["pre_tokenizer"] as JsonObject);
        if (expressions is null)
        {
            return null;
        }

        bool ignoresMerges = (bool?)tokenizer["model"]?["ignore_merges"] ?? false;
        string? normalizer = (string?)tokenizer["normalizer"]?["type"];
        // Among entries with these expressions, one that agrees in the rest is better, the first is good enough.
        return Table.Where(t => t.Expressions.Select(Canonical).SequenceEqual(expressions.Select(Canonical)))
            .OrderByDescending(t => (t.IgnoresMerges == ignoresMerges ? 2 : 0) + (t.Normalizer == normalizer ? 1 : 0)).FirstOrDefault();
    }

    /// <summary>The <c>pre_tokenizer</c> of tokenizer.json.</summary>
    public JsonObject ToJson()
    {
        if (Expressions is [Gpt2])
        {
            return ByteLevel(true);
        }

        if (IsDigitsThenGpt2)
        {
            return Sequence([new JsonObject { ["type"] = "Digits", ["individual_digits"] = true }, ByteLevel(true)]);
        }

        return Sequence([
            .. Expressions.Select(e => new JsonObject { ["type"] = "Split", ["pattern"] = new JsonObject { ["Regex"] = e }, ["behavior"] = "Isolated", ["invert"] = false }),
            ByteLevel(false),
        ]);
    }

    /// <summary>tokenizers' ByteLevel step.</summary>
    internal static JsonObject ByteLevel(bool useRegex) => new() { ["type"] = "ByteLevel", ["add_prefix_space"] = false, ["trim_offsets"] = true, ["use_regex"] = useRegex };

    private static JsonObject Sequence(JsonNode[] steps) => new() { ["type"] = "Sequence", ["pretokenizers"] = new JsonArray(steps) };

    private static string[]? ExpressionsOf(JsonObject? step)
    {
        switch ((string?)step?["type"])
        {
            case "Sequence":
                string[]?[] parts = [.. (step!["pretokenizers"] as JsonArray ?? []).Select(p => ExpressionsOf(p as JsonObject))];
                return parts.Any(p => p is null) ? null : [.. parts.SelectMany(p => p!)];
            case "ByteLevel":
                return (bool?)step!["add_prefix_space"] == true ? null : (bool?)step["use_regex"] ?? true ? [Gpt2] : [];
            case "Digits":
                return (bool?)step!["individual_digits"] == true ? [@"\p{N}"] : [@"\p{N}+"];
            case "Split":
                return (string?)step!["pattern"]?["Regex"] is { } expression && (string?)step["behavior"] is "Isolated" or "Removed" ? [expression] : null;
            default:
                return null;
        }
    }

    // Two spellings that occur for the same thing.
    private static string Canonical(string expression) => expression
        .Replace("(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])", Contractions, StringComparison.Ordinal)
        .Replace("(?:'s|'t|'re|'ve|'m|'ll|'d)", Contractions, StringComparison.Ordinal);
}
