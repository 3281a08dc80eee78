using System.Text;
using System.Text.Json.Nodes;
using LoraSharp.Formats.Tokenization;

namespace LoraSharp.Formats.Gguf.Tokenization;

/// <summary>Makes tokenizer.json and tokenizer_config.json from a file's metadata, so that one implementation serves both.</summary>
internal static class GgufTokenizerReader
{
    private const string Space = "▁";

    public static Tokenizer Tokenizer(GgufVocabulary vocabulary) => TokenizerLoader.FromTokenizerJson(
        Encoding.UTF8.GetBytes(TokenizerJson(vocabulary).ToJsonString()),
        Text(vocabulary, vocabulary.Bos),
        Text(vocabulary, vocabulary.Eos),
        Text(vocabulary, vocabulary.Padding),
        vocabulary.File.Location);

    public static JsonObject TokenizerJson(GgufVocabulary vocabulary)
    {
        var json = new JsonObject { ["version"] = "1.0", ["truncation"] = null, ["padding"] = null, ["added_tokens"] = AddedTokens(vocabulary) };
        bool addBos;
        if (vocabulary.Model == "gpt2")
        {
            GgufPreTokenizer pre = GgufPreTokenizer.Of(vocabulary.PreTokenizerName)
                ?? throw new MalformedFileException(vocabulary.File.Location, $"tokenizer.ggml.pre is '{vocabulary.PreTokenizerName}'. Known: {string.Join(", ", GgufPreTokenizer.AllNames)}.");
            addBos = vocabulary.Flag("add_bos_token") ?? pre.AddsBos;
            json["normalizer"] = pre.Normalizer is { } form ? new JsonObject { ["type"] = form } : null;
            json["pre_tokenizer"] = pre.ToJson();
            json["post_processor"] = Template(vocabulary, addBos);
            json["decoder"] = GgufPreTokenizer.ByteLevel(true);
            json["model"] = Bpe(vocabulary, [.. vocabulary.Need("tokenizer.ggml.merges").AsStrings().Select(m => (JsonNode)m)], pre.IgnoresMerges, byteFallback: false);
        }
        else
        {
            addBos = vocabulary.Flag("add_bos_token") ?? true;
            bool prefix = vocabulary.Flag("add_space_prefix") ?? true;
            JsonObject replace = Step("Replace", ("pattern", new JsonObject { ["String"] = " " }), ("content", Space));
            json["normalizer"] = prefix ? Step("Sequence", ("normalizers", new JsonArray(Step("Prepend", ("prepend", Space)), replace))) : replace;
            json["pre_tokenizer"] = null;
            json["post_processor"] = Template(vocabulary, addBos);
            var decoders = new JsonArray(Step("Replace", ("pattern", new JsonObject { ["String"] = Space }), ("content", " ")), Step("ByteFallback"), Step("Fuse"));
            if (prefix)
            {
                decoders.Add(Step("Strip", ("content", " "), ("start", 1), ("stop", 0)));
            }

            json["decoder"] = Step("Sequence", ("decoders", decoders));
            json["model"] = Bpe(vocabulary, Merges(vocabulary), ignoresMerges: false, byteFallback: true);
        }

        return json;
    }

    public static JsonObject TokenizerConfig(GgufVocabulary vocabulary, string? chatTemplate, int contextLength)
    {
        var decoder = new JsonObject();
        foreach (JsonNode? token in AddedTokens(vocabulary))
        {
            var entry = (JsonObject)token!.DeepClone();
            string id = ((int)entry["id"]!).ToString(System.Globalization.CultureInfo.InvariantCulture);
            entry.Remove("id");
            decoder[id] = entry;
        }

        var json = new JsonObject
        {
            ["tokenizer_class"] = "PreTrainedTokenizerFast",
            ["added_tokens_decoder"] = decoder,
            ["bos_token"] = Text(vocabulary, vocabulary.Bos),
            ["eos_token"] = Text(vocabulary, vocabulary.Eos),
            ["unk_token"] = Text(vocabulary, vocabulary.Unknown),
            ["pad_token"] = Text(vocabulary, vocabulary.Padding),
            ["clean_up_tokenization_spaces"] = false,
            ["model_max_length"] = contextLength,
        };
        if (chatTemplate is not null)
        {
            json["chat_template"] = chatTemplate;
        }

        return json;
    }

    private static JsonArray AddedTokens(GgufVocabulary vocabulary)
    {
        var added = new JsonArray();
        for (int id = 0; id < vocabulary.Tokens.Length; id++)
        {
            bool special = vocabulary.Types[id] == GgufTokenType.Control || (vocabulary.Types[id] == GgufTokenType.Unknown && vocabulary.Model == "llama");
            if ((special || vocabulary.Types[id] == GgufTokenType.UserDefined) && vocabulary.Tokens[id].Length > 0)
            {
                added.Add(new JsonObject
                {
                    ["id"] = id,
                    ["content"] = vocabulary.Tokens[id],
                    ["single_word"] = false,
                    ["lstrip"] = false,
                    ["rstrip"] = false,
                    ["normalized"] = false,
                    ["special"] = special,
                });
            }
        }

        return added;
    }

    private static JsonObject? Template(GgufVocabulary vocabulary, bool addBos)
    {
        bool addEos = vocabulary.Flag("add_eos_token") ?? false;
        var single = new JsonArray();
        var pair = new JsonArray();
        var special = new JsonObject();
        void Token(JsonArray to, int? id, int sequence)
        {
            if (id is { } known)
            {
                string text = vocabulary.Tokens[known];
                to.Add(new JsonObject { ["SpecialToken"] = new JsonObject { ["id"] = text, ["type_id"] = sequence } });
                special[text] = new JsonObject { ["id"] = text, ["ids"] = new JsonArray(known), ["tokens"] = new JsonArray(text) };
            }
        }

        foreach ((JsonArray template, string[] sequences) in ((JsonArray, string[])[])[(single, ["A"]), (pair, ["A", "B"])])
        {
            for (int i = 0; i < sequences.Length; i++)
            {
                Token(template, addBos ? vocabulary.Bos : null, i);
                template.Add(new JsonObject { ["Sequence"] = new JsonObject { ["id"] = sequences[i], ["type_id"] = i } });
                Token(template, addEos ? vocabulary.Eos : null, i);
            }
        }

        return special.Count == 0 ? null : new JsonObject { ["type"] = "TemplateProcessing", ["single"] = single, ["pair"] = pair, ["special_tokens"] = special };
    }

    private static JsonObject Bpe(GgufVocabulary vocabulary, JsonArray merges, bool ignoresMerges, bool byteFallback)
    {
        var vocab = new JsonObject();
        for (int id = 0; id < vocabulary.Tokens.Length; id++)
        {
            // Of two tokens with one text the first is found; the other can only be decoded, through added_tokens.
            if (!vocab.ContainsKey(vocabulary.Tokens[id]))
            {
                vocab.Add(vocabulary.Tokens[id], id);
            }
        }

        return new JsonObject
        {
            ["type"] = "BPE",
            ["dropout"] = null,
            ["unk_token"] = byteFallback ? Text(vocabulary, vocabulary.Unknown ?? UnknownByType(vocabulary)) : null,
            ["continuing_subword_prefix"] = null,
            ["end_of_word_suffix"] = null,
            ["fuse_unk"] = byteFallback,
            ["byte_fallback"] = byteFallback,
            ["ignore_merges"] = ignoresMerges,
            ["vocab"] = vocab,
            ["merges"] = merges,
        };
    }

    private static int? UnknownByType(GgufVocabulary vocabulary) => Array.IndexOf(vocabulary.Types, GgufTokenType.Unknown) is >= 0 and int id ? id : null;

    private static JsonArray Merges(GgufVocabulary vocabulary)
    {
        if (vocabulary.Scores is null)
        {
            throw new MalformedFileException(vocabulary.File.Location, "has no metadata 'tokenizer.ggml.scores', which a tokenizer of kind 'llama' needs.");
        }

        return [.. GgufScores.ToMerges(vocabulary.Tokens, vocabulary.Scores, vocabulary.Types).Select(m => (JsonNode)new JsonArray(m.Left, m.Right))];
    }

    private static string? Text(GgufVocabulary vocabulary, int? id) => id is { } known ? vocabulary.Tokens[known] : null;

    private static JsonObject Step(string type, params (string Key, JsonNode Value)[] more)
    {
        var step = new JsonObject { ["type"] = type };
        foreach ((string key, JsonNode value) in more)
        {
            step[key] = value;
        }

        return step;
    }
}
