using System.Text.Json.Nodes;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Formats.Tokenization;

namespace LoraSharp.Formats.Tests.Tokenization;

/// <summary>Encodings and decodings of real tokenizers, as the tokenizers library gives them.</summary>
public sealed class GoldenTests
{
    [Fact]
    public void TinyBaseEncodesAsTransformersDoes()
    {
        Tokenizer tokenizer = TokenizerLoader.FromFolder(Fixtures.Path("tokenizers/tiny-base"));
        JsonObject golden = JsonFile.ReadObject(Fixtures.Path("tokenizers/tiny-base/golden.json"));
        JsonArray encodings = golden["encodings"]!.AsArray();
        Assert.NotEmpty(encodings);
        foreach (JsonNode? entry in encodings)
        {
            string text = (string)entry!["text"]!;
            int[] ids = [.. entry["ids"]!.AsArray().Select(id => (int)id!)];
            Assert.Equal(ids, tokenizer.Encode(text));
            Assert.Equal(text, tokenizer.Decode(ids));
        }
    }

    [Theory]
    [InlineData("smollm2", "models/smollm2-135m-instruct")]
    [InlineData("qwen3", "tokenizers-npm/qwen3")]
    [InlineData("llama3_1", "tokenizers-npm/llama3_1")]
    [InlineData("llama2", "tokenizers-npm/llama2")]
    public void RealTokenizersEncodeAndDecodeAsTheLibraryDoes(string name, string folder)
    {
        JsonObject golden = JsonFile.ReadObject(Fixtures.Reference($"fixtures/tokenizers/{name}.golden.json") ?? Fixtures.ReferenceOrSkip("fixtures/tokenizers"));
        Tokenizer tokenizer = TokenizerLoader.FromFolder(Fixtures.ReferenceOrSkip(folder));
        JsonArray encodings = golden["encodings"]!.AsArray();
        Assert.NotEmpty(encodings);
        foreach (JsonNode? entry in encodings)
        {
            string text = (string)entry!["text"]!;
            Assert.Equal(Ids(entry["ids"]), tokenizer.Encode(text, addSpecialTokens: false));
            Assert.Equal(Ids(entry["ids_special"]), tokenizer.Encode(text));
            Assert.Equal((string)entry["decoded"]!, tokenizer.Decode(Ids(entry["ids"])));
            Assert.Equal((string)entry["decoded_skip"]!, tokenizer.Decode(Ids(entry["ids_special"]), skipSpecialTokens: true));
        }
    }

    private static int[] Ids(JsonNode? node) => [.. node!.AsArray().Select(id => (int)id!)];
}
