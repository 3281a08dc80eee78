using System.Text.Json;
using System.Text.Json.Nodes;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Formats.Tokenization;

namespace LoraSharp.Formats.Tests.Tokenization;

/// <summary>
/// Small tokenizers, one for each component and option, against what the tokenizers library gives for them
/// (tests/Fixtures/tokenizers/components/make.mjs).
/// </summary>
public sealed class ComponentTests
{
    private static readonly Lazy<JsonObject> File = new(() => JsonFile.ReadObject(Fixtures.Path("tokenizers/components/components.json")));

    public static TheoryData<string> Names => [.. File.Value["cases"]!.AsArray().Select(entry => (string)entry!["name"]!)];

    [Theory]
    [MemberData(nameof(Names))]
    public void EncodesAndDecodesAsTheLibraryDoes(string name)
    {
        JsonObject entry = File.Value["cases"]!.AsArray().Single(entry => (string)entry!["name"]! == name)!.AsObject();
        JsonObject json = entry["tokenizer"]!.DeepClone().AsObject();
        JsonObject model = json["model"]!.AsObject();
        foreach (string shared in new[] { "vocab", "merges" })
        {
            if (model[shared] is JsonValue)
            {
                model[shared] = File.Value[shared]!.DeepClone();
            }
        }

        Tokenizer tokenizer = TokenizerLoader.FromTokenizerJson(JsonSerializer.SerializeToUtf8Bytes(json));
        foreach (JsonNode? row in entry["rows"]!.AsArray())
        {
            string text = (string)row!["text"]!;
            string place = $"{name}: {JsonSerializer.Serialize(text)}";
            TokenizedText encoded = tokenizer.EncodeWithOffsets(text, addSpecialTokens: false);
            Assert.True(Ids(row["ids"]).AsSpan().SequenceEqual(encoded.Ids), $"{place}: expected {row["ids"]!.ToJsonString()}, got {JsonSerializer.Serialize(encoded.Ids)}");
            Assert.Equal(encoded.Ids, tokenizer.Encode(text, addSpecialTokens: false));
            Assert.True(Ids(row["ids_special"]).AsSpan().SequenceEqual(tokenizer.Encode(text)), $"{place} with special tokens");
            if (encoded.Ids.Length > 0)
            {
                Assert.Equal((string)row["decoded"]!, tokenizer.Decode(encoded.Ids));
            }

            if (Ids(row["ids_special"]) is { Length: > 0 } special)
            {
                Assert.Equal((string)row["decoded_skip"]!, tokenizer.Decode(special, skipSpecialTokens: true));
            }

            // Where the library's own offsets lie outside the text there is nothing to compare.
            if (row["offsets"] is not { } offsets)
            {
                continue;
            }

            string expected = offsets.ToJsonString();
            string found = JsonSerializer.Serialize(encoded.Offsets.Select(offset => new[] { CodePointIndex(text, offset.Start), CodePointIndex(text, offset.End) }));
            Assert.True(expected == found, $"{place}: expected offsets {expected}, got {found}");
        }
    }

    // The library counts code points, .NET UTF-16 units.
    private static int CodePointIndex(string text, int index) => text[..Math.Min(index, text.Length)].EnumerateRunes().Count() + Math.Max(0, index - text.Length);

    private static int[] Ids(JsonNode? node) => [.. node!.AsArray().Select(id => (int)id!)];
}
