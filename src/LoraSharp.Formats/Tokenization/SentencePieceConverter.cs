using System.Text.Json.Nodes;
using LoraSharp.Formats.Gguf.Tokenization;

namespace LoraSharp.Formats.Tokenization;

/// <summary>
/// A SentencePiece model (<c>tokenizer.model</c>: BPE or Unigram) as the <c>tokenizer.json</c> that does the same, so that one
/// pipeline serves both. Control pieces become special tokens that are found in text, as transformers has it;
/// SentencePiece itself reads them as text.
/// </summary>
internal static class SentencePieceConverter
{
    /// <summary>A prepend_scheme that tokenizer.json does not have: before the text, also where it begins with a space of its own.</summary>
    public const string StartScheme = "sentencepiece";

    private const string Space = "▁";

    public static (JsonObject Json, SpecialTokens Special) Convert(byte[] bytes, string source, TokenizerRoles roles)
    {
        SentencePieceModel model = SentencePieceModel.Parse(source, bytes);
        string[] pieces = [.. model.Pieces.Select(p => p.Text)];
        string? Role(string? told, params string[] usual) => told ?? usual.FirstOrDefault(u => Array.IndexOf(pieces, u) is >= 0 and int id && model.Pieces[id].Type != GgufTokenType.Normal);
        var special = new SpecialTokens(Role(roles.Special.Bos, "<s>", "<bos>"), Role(roles.Special.Eos, "</s>", "<eos>"), Role(roles.Special.Pad, "<pad>"));
        bool byteFallback = model.Pieces.Any(p => p.Type == GgufTokenType.Byte);
        var json = new JsonObject
        {
            ["version"] = "1.0",
            ["added_tokens"] = AddedTokens(model),
            ["normalizer"] = Normalizer(model),
            // One word: pieces may span spaces.
            ["pre_tokenizer"] = new JsonObject { ["type"] = "Metaspace", ["replacement"] = Space, ["prepend_scheme"] = model.AddsPrefix ? StartScheme : "never", ["split"] = false },
            // As Llama's, where nothing says otherwise: a beginning, no end.
            ["post_processor"] = Template(pieces, roles.AddsBos ?? model.IsBpe ? special.Bos : null, roles.AddsEos == true ? special.Eos : null),
            ["decoder"] = Decoder(model),
            ["model"] = model.IsBpe ? Bpe(model, pieces, byteFallback) : Unigram(model, byteFallback),
        };
        return (json, special);
    }

    private static JsonArray AddedTokens(SentencePieceModel model)
    {
        var added = new JsonArray();
        for (int id = 0; id < model.Pieces.Count; id++)
        {
            (string text, _, GgufTokenType type) = model.Pieces[id];
            if (type is GgufTokenType.Control or GgufTokenType.Unknown or GgufTokenType.UserDefined && text.Length > 0)
            {
                added.Add((JsonNode)new JsonObject
                {
                    ["id"] = id,
                    ["content"] = text,
                    ["single_word"] = false,
                    ["lstrip"] = false,
                    ["rstrip"] = false,
                    ["normalized"] = false,
                    ["special"] = type != GgufTokenType.UserDefined,
                });
            }
        }

        return added;
    }

    private static JsonObject? Normalizer(SentencePieceModel model)
    {
        var steps = new JsonArray();
        if (model.CharactersMap.Length > 0)
        {
            steps.Add((JsonNode)new JsonObject { ["type"] = "Precompiled", ["precompiled_charsmap"] = System.Convert.ToBase64String(model.CharactersMap) });
        }

        if (model.RemovesExtraSpaces)
        {
            // Spaces only, no other white space; at the end the sign for a space counts as one.
            steps.Add((JsonNode)new JsonObject { ["type"] = "Replace", ["pattern"] = new JsonObject { ["Regex"] = "^ +|[ ▁]+$" }, ["content"] = "" });
            steps.Add((JsonNode)new JsonObject { ["type"] = "Replace", ["pattern"] = new JsonObject { ["Regex"] = " {2,}" }, ["content"] = " " });
        }

        return steps.Count == 0 ? null : new JsonObject { ["type"] = "Sequence", ["normalizers"] = steps };
    }

    private static JsonObject Decoder(SentencePieceModel model)
    {
        var steps = new JsonArray(
            new JsonObject { ["type"] = "Replace", ["pattern"] = new JsonObject { ["String"] = Space }, ["content"] = " " },
            new JsonObject { ["type"] = "ByteFallback" },
            new JsonObject { ["type"] = "Fuse" });
        if (model.AddsPrefix)
        {
            steps.Add((JsonNode)new JsonObject { ["type"] = "Strip", ["content"] = " ", ["start"] = 1, ["stop"] = 0 });
        }

        return new JsonObject { ["type"] = "Sequence", ["decoders"] = steps };
    }

    private static JsonObject? Template(string[] pieces, string? bos, string? eos)
    {
        (string, int)? Known(string? token) => token is not null && Array.IndexOf(pieces, token) is >= 0 and int id ? (token, id) : null;
        return TemplateJson.Around(Known(bos), Known(eos));
    }

    private static JsonObject Bpe(SentencePieceModel model, string[] pieces, bool byteFallback)
    {
        var vocabulary = new JsonObject();
        for (int id = 0; id < pieces.Length; id++)
        {
            if (!vocabulary.ContainsKey(pieces[id]))
            {
                vocabulary.Add(pieces[id], id);
            }
        }

        IEnumerable<(string Left, string Right)> merges = GgufScores.ToMerges(pieces, [.. model.Pieces.Select(p => p.Score)], [.. model.Pieces.Select(p => p.Type)]);
        return new JsonObject
        {
            ["type"] = "BPE",
            ["unk_token"] = model.Pieces.FirstOrDefault(p => p.Type == GgufTokenType.Unknown).Text,
            ["fuse_unk"] = true,
            ["byte_fallback"] = byteFallback,
            ["vocab"] = vocabulary,
            ["merges"] = new JsonArray([.. merges.Select(m => (JsonNode)new JsonArray(m.Left, m.Right))]),
        };
    }

    private static JsonObject Unigram(SentencePieceModel model, bool byteFallback)
    {
        int unknown = model.Pieces.FindIndex(p => p.Type == GgufTokenType.Unknown);
        return new JsonObject
        {
            ["type"] = "Unigram",
            ["unk_id"] = unknown >= 0 ? unknown : null,
            ["byte_fallback"] = byteFallback,
            ["vocab"] = new JsonArray([.. model.Pieces.Select(p => (JsonNode)new JsonArray(p.Text, p.Score))]),
        };
    }
}
