using System.Text.Json.Nodes;
using LoraSharp.Formats.Gguf;
using LoraSharp.Formats.Gguf.Mapping;
using LoraSharp.Formats.Gguf.Tokenization;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Formats.Tokenization;

namespace LoraSharp.Formats.Tests.Gguf;

public sealed class GgufTokenizerTests
{
    [Fact]
    public void The_real_files_tokenizer_encodes_as_the_library_does()
    {
        using GgufCheckpoint checkpoint = GgufCheckpoint.Open(Fixtures.ReferenceOrSkip("models/smollm2-135m-instruct/model.q4_1.gguf"));
        Tokenizer tokenizer = checkpoint.Tokenizer()!;
        Assert.Equal(1, tokenizer.BosTokenId);
        Assert.Equal(2, tokenizer.EosTokenId);
        CompareGolden("smollm2", tokenizer);
    }

    [Theory]
    [InlineData("smollm2", "models/smollm2-135m-instruct", "gpt2", "smollm")]
    [InlineData("qwen3", "tokenizers-npm/qwen3", "gpt2", "qwen2")]
    [InlineData("llama3_1", "tokenizers-npm/llama3_1", "gpt2", "llama-bpe")]
    [InlineData("llama2", "tokenizers-npm/llama2", "llama", "default")]
    public void A_real_tokenizer_survives_the_way_there_and_back(string name, string folder, string model, string pre)
    {
        string path = Fixtures.ReferenceOrSkip(folder);
        using var temporary = new TemporaryFolder();
        using GgufShards file = Write(temporary, GgufTokenizerFiles.FromFolder(path), SizeOf(path));
        Assert.Equal(model, file.Find("tokenizer.ggml.model")!.Value.AsString());
        Assert.Equal(pre, file.Find("tokenizer.ggml.pre")!.Value.AsString());
        CompareGolden(name, GgufTokenizerReader.Tokenizer(GgufVocabulary.Of(file)!));
    }

    [Fact]
    public void The_repositorys_own_tokenizer_survives_the_way_there_and_back()
    {
        string folder = Fixtures.Path("tokenizers/tiny-base");
        using var temporary = new TemporaryFolder();
        using GgufShards file = Write(temporary, GgufTokenizerFiles.FromFolder(folder), 4096);
        Tokenizer original = TokenizerLoader.FromFolder(folder);
        Tokenizer back = GgufTokenizerReader.Tokenizer(GgufVocabulary.Of(file)!);
        foreach (string text in new[] { "Hello, world! 12345", "<|im_start|>user\nWie geht's?<|im_end|>\n", "  spaces\t\tand ünïcödé 🙂", string.Empty })
        {
            Assert.Equal(original.Encode(text), back.Encode(text));
            Assert.Equal(original.Decode(original.Encode(text)), back.Decode(back.Encode(text)));
        }

        Assert.Equal(original.EosTokenId, back.EosTokenId);
        Assert.Equal(original.PadTokenId, back.PadTokenId);
        JsonObject config = GgufTokenizerReader.TokenizerConfig(GgufVocabulary.Of(file)!, file.Find("tokenizer.chat_template")?.AsString(), 512);
        Assert.Equal("<|im_end|>", (string?)config["eos_token"]);
        Assert.True((bool)config["added_tokens_decoder"]!["1"]!["special"]!);
    }

    [Fact]
    public void Scores_join_as_SentencePiece_does()
    {
        using GgufCheckpoint checkpoint = GgufCheckpoint.Open(Fixtures.Path("gguf/tiny-q4_0.gguf"));
        Tokenizer tokenizer = checkpoint.Tokenizer()!;
        // BOS, then "▁t" (a pair that is in the vocabulary), "h" and "▁h"; a byte has no piece of its own.
        Assert.Equal([1, 286, 267, 287, 6 + 'A' - 3], tokenizer.Encode("th h" + "A"));
        Assert.Equal("th hA", tokenizer.Decode(tokenizer.Encode("th hA"), skipSpecialTokens: true));
    }

    [Fact]
    public void Padded_embeddings_get_tokens_of_their_own()
    {
        using var temporary = new TemporaryFolder();
        using GgufShards file = Write(temporary, GgufTokenizerFiles.FromFolder(Fixtures.Path("tokenizers/tiny-base")), 4100);
        Assert.Equal("[PAD4099]", file.Find("tokenizer.ggml.tokens")!.Value.AsStrings()[4099]);
        Assert.Equal(5, file.Find("tokenizer.ggml.token_type")!.Value.AsIntegers()[4099]);
    }

    [Fact]
    public void An_unknown_pre_tokenizer_is_refused_both_ways()
    {
        GgufTokenizerFiles files = GgufTokenizerFiles.FromFolder(Fixtures.Path("tokenizers/tiny-base"));
        files.TokenizerJson!["pre_tokenizer"] = new JsonObject { ["type"] = "Whitespace" };
        using var temporary = new TemporaryFolder();
        Assert.Contains("is none of those llama.cpp knows", Assert.Throws<LoraSharpException>(() => Write(temporary, files, 4096)).Message, StringComparison.Ordinal);
        string path = temporary.File("m.gguf");
        File.WriteAllBytes(path, new GgufBytes().String("tokenizer.ggml.model", "gpt2").String("tokenizer.ggml.pre", "mystery").Key("tokenizer.ggml.tokens", 9, w =>
        {
            w.Write(8u);
            w.Write(1UL);
            GgufBytes.Text(w, "a");
        }).ToArray());
        using GgufShards file = GgufShards.Open(path);
        Assert.Contains("tokenizer.ggml.pre is 'mystery'. Known: llama-bpe", Assert.Throws<MalformedFileException>(() => GgufTokenizerReader.TokenizerJson(GgufVocabulary.Of(file)!)).Message, StringComparison.Ordinal);
    }

    private static GgufShards Write(TemporaryFolder folder, GgufTokenizerFiles files, int size)
    {
        var metadata = new GgufMetadataWriter();
        GgufTokenizerWriter.Write(files, new GgufModelConfig("test", []), size, metadata);
        GgufWriter.Write(folder.File("t.gguf"), metadata, []);
        return GgufShards.Open(folder.File("t.gguf"));
    }

    private static int SizeOf(string folder)
    {
        JsonObject json = JsonFile.ReadObject(Path.Combine(folder, "tokenizer.json"));
        return 1 + Math.Max(json["model"]!["vocab"]!.AsObject().Max(p => (int)p.Value!), json["added_tokens"]!.AsArray().Max(t => (int)t!["id"]!));
    }

    private static void CompareGolden(string name, Tokenizer tokenizer)
    {
        JsonObject golden = JsonFile.ReadObject(Fixtures.ReferenceOrSkip($"fixtures/tokenizers/{name}.golden.json"));
        foreach (JsonNode? entry in golden["encodings"]!.AsArray())
        {
            Assert.Equal(Ids(entry!["ids"]), tokenizer.Encode((string)entry["text"]!, addSpecialTokens: false));
            Assert.Equal(Ids(entry["ids_special"]), tokenizer.Encode((string)entry["text"]!));
            Assert.Equal((string)entry["decoded"]!, tokenizer.Decode(Ids(entry["ids"])));
            Assert.Equal((string)entry["decoded_skip"]!, tokenizer.Decode(Ids(entry["ids_special"]), skipSpecialTokens: true));
        }
    }

    private static int[] Ids(JsonNode? node) => [.. node!.AsArray().Select(id => (int)id!)];
}
