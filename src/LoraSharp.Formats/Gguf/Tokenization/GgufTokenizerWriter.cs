using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using LoraSharp.Formats.Gguf.Mapping;
using LoraSharp.Formats.Tokenization;

namespace LoraSharp.Formats.Gguf.Tokenization;

/// <summary>Writes <c>tokenizer.*</c> metadata from a Hugging Face tokenizer.</summary>
internal static class GgufTokenizerWriter
{
    public static void Write(GgufTokenizerFiles files, GgufModelConfig config, int vocabularySize, GgufMetadataWriter writer)
    {
        if (files.Gguf is { } gguf)
        {
            foreach (GgufValue value in gguf.Metadata.Values.Where(v => v.Key.StartsWith("tokenizer.", StringComparison.Ordinal)))
            {
                writer.Copy(value);
            }

            return;
        }

        string? model = files.TokenizerJson is { } json ? (string?)json["model"]?["type"] : null;
        var vocabulary = new Vocabulary(vocabularySize);
        if (model == "BPE" && IsByteLevel(files.TokenizerJson!))
        {
            WriteByteLevel(files, config, vocabulary, writer);
        }
        else if (files.SentencePieceModel is not null || model == "BPE")
        {
            WriteSentencePiece(files, config, vocabulary, writer);
        }
        else if (model is not null)
        {
            throw new LoraSharpException($"{config.Location}: a tokenizer of type {model} cannot be exported to GGUF; BPE (byte-level or SentencePiece) can.");
        }
        else
        {
            writer.Set("tokenizer.ggml.model", "none");
            config.Warnings.Add($"the model has no {TokenizerLoader.Expected}: the file is written without a tokenizer.");
            return;
        }

        WriteSpecials(files, config, vocabulary, writer);
    }

    private static void WriteByteLevel(GgufTokenizerFiles files, GgufModelConfig config, Vocabulary vocabulary, GgufMetadataWriter writer)
    {
        JsonObject json = files.TokenizerJson!;
        vocabulary.Add(json, config);
        GgufPreTokenizer? pre = GgufPreTokenizer.Matching(json);
        if (pre is null)
        {
            throw new LoraSharpException(
                $"{config.Location}: the pre-tokenizer of tokenizer.json is none of those llama.cpp knows ({string.Join(", ", GgufPreTokenizer.AllNames)}), so the text would be cut differently. Found: {json["pre_tokenizer"]?.ToJsonString() ?? "null"}.");
        }

        writer.Set("tokenizer.ggml.model", "gpt2");
        writer.Set("tokenizer.ggml.pre", pre.Names[0]);
        vocabulary.Write(writer);
        // A space inside a token would look like the gap between the two; byte-level vocabularies write it as Ġ.
        writer.Set("tokenizer.ggml.merges", [.. Merges(json).Select(m => $"{m.Left.Replace(' ', 'Ġ')} {m.Right.Replace(' ', 'Ġ')}")]);
    }

    private static void WriteSentencePiece(GgufTokenizerFiles files, GgufModelConfig config, Vocabulary vocabulary, GgufMetadataWriter writer)
    {
        bool prefix;
        float[] scores;
        if (files.SentencePieceModel is { } bytes)
        {
            SentencePieceModel model = SentencePieceModel.Parse(config.Location, bytes);
            if (!model.IsBpe)
            {
                throw new LoraSharpException($"{config.Location}: tokenizer.model is a unigram model; llama.cpp's tokenizer of decoder models is BPE, so it cannot be exported.");
            }

            prefix = model.AddsPrefix;
            vocabulary.Add(model);
            scores = new float[vocabulary.Count];
            Array.Fill(scores, -10000);
            for (int id = 0; id < Math.Min(model.Pieces.Count, scores.Length); id++)
            {
                scores[id] = model.Pieces[id].Score;
            }

            if (files.TokenizerJson is { } json)
            {
                vocabulary.AddAdded(json, config);
            }
        }
        else
        {
            JsonObject json = files.TokenizerJson!;
            prefix = HasPrefix(json["normalizer"]) || HasPrefix(json["pre_tokenizer"]);
            vocabulary.Add(json, config);
            scores = GgufScores.FromMerges(vocabulary.Ids, Merges(json), vocabulary.Count);
        }

        writer.Set("tokenizer.ggml.model", "llama");
        writer.Set("tokenizer.ggml.pre", "default");
        vocabulary.Write(writer);
        writer.Set("tokenizer.ggml.scores", scores);
        writer.Set("tokenizer.ggml.add_space_prefix", prefix);
    }

    private static void WriteSpecials(GgufTokenizerFiles files, GgufModelConfig config, Vocabulary vocabulary, GgufMetadataWriter writer)
    {
        int? bos = Special("bos_token", "bos");
        int? eos = Special("eos_token", "eos");
        Special("unk_token", "unknown");
        Special("pad_token", "padding");
        (bool First, bool Last)? added = files.TokenizerJson is { } json ? Template(json["post_processor"] as JsonObject) : null;
        bool? addBos = added?.First ?? Flag("add_bos_token") ?? (files.SentencePieceModel is not null ? true : null);
        bool? addEos = added?.Last ?? Flag("add_eos_token");
        writer.Set("tokenizer.ggml.add_bos_token", bos is not null && addBos == true);
        writer.Set("tokenizer.ggml.add_eos_token", eos is not null && addEos == true);
        // Models that end a turn with another token than a text name both in generation_config.json.
        if (files.GenerationConfig?["eos_token_id"] is JsonArray { Count: > 1 } ends)
        {
            foreach (JsonNode? end in ends)
            {
                int id = (int)end!;
                if (id != eos && id < vocabulary.Count && vocabulary.Text(id) is "<|eot_id|>" or "<|im_end|>" or "<end_of_turn>" or "<|end|>" or "<|endoftext|>")
                {
                    writer.Set("tokenizer.ggml.eot_token_id", id);
                    break;
                }
            }
        }

        if (files.ChatTemplate is { } template)
        {
            writer.Set("tokenizer.chat_template", template);
        }

        bool? Flag(string key) => files.TokenizerConfig?[key] is JsonValue value && value.TryGetValue(out bool flag) ? flag : null;

        int? Special(string key, string gguf)
        {
            string? text = files.TokenizerConfig?[key] switch
            {
                JsonValue value when value.TryGetValue(out string? plain) => plain,
                JsonObject token => (string?)token["content"],
                _ => null,
            };
            int? id = text is not null && vocabulary.Ids.TryGetValue(text, out int found) ? found
                : text is null && files.TokenizerConfig?.ContainsKey(key) != true ? FromConfig(key + "_id") : null;
            if (id is { } known)
            {
                writer.Set($"tokenizer.ggml.{gguf}_token_id", known);
            }

            return id;
        }

        int? FromConfig(string key) => config.Json[key] switch
        {
            JsonValue value when value.GetValueKind() == JsonValueKind.Number && (int)value >= 0 && (int)value < vocabulary.Count => (int)value,
            JsonArray { Count: > 0 } list => (int)list[0]!,
            _ => null,
        };
    }

    /// <summary>Whether a template puts something before and after a text; null when there is no template.</summary>
    private static (bool First, bool Last)? Template(JsonObject? processor)
    {
        switch ((string?)processor?["type"])
        {
            case "Sequence":
                return (processor!["processors"] as JsonArray ?? []).Select(p => Template(p as JsonObject)).FirstOrDefault(t => t is not null);
            case "TemplateProcessing":
                JsonArray single = processor!["single"] as JsonArray ?? [];
                return (single.FirstOrDefault()?["SpecialToken"] is not null, single.LastOrDefault()?["SpecialToken"] is not null);
            default:
                return null;
        }
    }

    private static bool IsByteLevel(JsonObject json) => Contains(json["pre_tokenizer"], "ByteLevel") || Contains(json["decoder"], "ByteLevel");

    private static bool HasPrefix(JsonNode? step) => step switch
    {
        JsonObject item => (string?)item["type"] switch
        {
            "Prepend" => true,
            "Metaspace" => (string?)item["prepend_scheme"] is { } scheme ? scheme != "never" : (bool?)item["add_prefix_space"] ?? true,
            _ => HasPrefix(item["normalizers"]) || HasPrefix(item["pretokenizers"]),
        },
        JsonArray list => list.Any(HasPrefix),
        _ => false,
    };

    private static bool Contains(JsonNode? step, string type) => step switch
    {
        JsonObject item => (string?)item["type"] == type || Contains(item["pretokenizers"], type) || Contains(item["decoders"], type),
        JsonArray list => list.Any(s => Contains(s, type)),
        _ => false,
    };

    private static IEnumerable<(string Left, string Right)> Merges(JsonObject json)
    {
        foreach (JsonNode? merge in json["model"]?["merges"] as JsonArray ?? [])
        {
            if (merge is JsonArray pair)
            {
                yield return ((string)pair[0]!, (string)pair[1]!);
            }
            else
            {
                string text = (string)merge!;
                int gap = text.IndexOf(' ', 1);
                yield return (text[..gap], text[(gap + 1)..]);
            }
        }
    }

    /// <summary>Tokens by id, with the gaps that a padded embedding has filled.</summary>
    private sealed class Vocabulary
    {
        private readonly string?[] _texts;
        private readonly GgufTokenType[] _types;

        public Vocabulary(int size)
        {
            _texts = new string?[size];
            _types = new GgufTokenType[size];
        }

        public int Count => _texts.Length;

        public Dictionary<string, int> Ids { get; } = new(StringComparer.Ordinal);

        public string? Text(int id) => _texts[id];

        public void Add(JsonObject json, GgufModelConfig config)
        {
            bool bytes = (bool?)json["model"]?["byte_fallback"] ?? false;
            string? unknown = (string?)json["model"]?["unk_token"];
            foreach ((string text, JsonNode? id) in json["model"]?["vocab"] as JsonObject ?? [])
            {
                bool isByte = bytes && text.Length == 6 && text.StartsWith("<0x", StringComparison.Ordinal) && text[5] == '>' && byte.TryParse(text.AsSpan(3, 2), NumberStyles.HexNumber, CultureInfo.InvariantCulture, out _);
                Set((int)id!, text, isByte ? GgufTokenType.Byte : bytes && text == unknown ? GgufTokenType.Unknown : GgufTokenType.Normal, config);
            }

            AddAdded(json, config);
        }

        public void AddAdded(JsonObject json, GgufModelConfig config)
        {
            foreach (JsonNode? token in json["added_tokens"] as JsonArray ?? [])
            {
                int id = (int)token!["id"]!;
                bool special = (bool?)token["special"] ?? false;
                GgufTokenType type = id < Count && _types[id] == GgufTokenType.Unknown ? GgufTokenType.Unknown : special ? GgufTokenType.Control : GgufTokenType.UserDefined;
                Set(id, (string)token["content"]!, type, config);
            }
        }

        public void Add(SentencePieceModel model)
        {
            for (int id = 0; id < Math.Min(Count, model.Pieces.Count); id++)
            {
                Set(id, model.Pieces[id].Text, model.Pieces[id].Type, null);
            }
        }

        public void Write(GgufMetadataWriter writer)
        {
            writer.Set("tokenizer.ggml.tokens", [.. _texts.Select((t, i) => t ?? string.Create(CultureInfo.InvariantCulture, $"[PAD{i}]"))]);
            writer.Set("tokenizer.ggml.token_type", [.. _texts.Select((t, i) => (int)(t is null ? GgufTokenType.Unused : _types[i]))]);
        }

        private void Set(int id, string text, GgufTokenType type, GgufModelConfig? config)
        {
            if (id < 0 || id >= Count)
            {
                throw new MalformedFileException(config?.Location ?? "tokenizer", $"the tokenizer has a token '{text}' with id {id}, the model's embedding {Count} rows.");
            }

            _texts[id] = text;
            _types[id] = type;
            Ids[text] = id;
        }
    }
}
