using System.Text.Json.Nodes;
using LoraSharp.Formats.Tokenization;

namespace LoraSharp.Formats.Tests.Tokenization;

/// <summary>Folders with vocab.json and merges.txt alone, against the tokenizers library (tests/Fixtures/tokenizers/vocabulary-files/make.mjs).</summary>
public sealed class VocabularyFilesTests : IDisposable
{
    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("lorasharp-vocab-");

    public void Dispose() => _folder.Delete(recursive: true);

    [Theory]
    [InlineData("gpt2")]
    [InlineData("opt_with_old_files")]
    [InlineData("qwen2")]
    [InlineData("neox_by_model_type")]
    [InlineData("roberta")]
    public void Vocabulary_and_merges_encode_as_their_class(string name)
    {
        JsonNode expected = JsonNode.Parse(File.ReadAllText(Fixtures.Path("tokenizers/vocabulary-files/golden.json")))![name]!;
        WriteVocabulary();
        foreach ((string file, JsonNode? content) in expected["files"]!.AsObject())
        {
            Write(file, content!.ToJsonString());
        }

        Tokenizer tokenizer = TokenizerLoader.FromFolder(_folder.FullName);

        foreach (JsonNode? row in expected["rows"]!.AsArray())
        {
            string text = (string)row!["text"]!;
            int[] ids = Ids(row["ids"]!);
            Assert.True(ids.SequenceEqual(tokenizer.Encode(text, addSpecialTokens: false)), $"'{text}': {string.Join(' ', tokenizer.Encode(text, false))} instead of {string.Join(' ', ids)}");
            Assert.Equal(Ids(row["ids_with_special"]!), tokenizer.Encode(text));
            Assert.Equal((string)row["decoded"]!, tokenizer.Decode(ids));
        }
    }

    [Fact]
    public void A_real_vocabulary_encodes_as_its_tokenizer_json()
    {
        string reference = Fixtures.ReferenceOrSkip("tokenizers-npm/qwen3/tokenizer.json");
        JsonNode json = JsonNode.Parse(File.ReadAllBytes(reference))!;
        WriteVocabulary(json);
        File.Copy(Path.Combine(Path.GetDirectoryName(reference)!, "tokenizer_config.json"), Path.Combine(_folder.FullName, "tokenizer_config.json"));
        Tokenizer whole = TokenizerLoader.FromFolder(Path.GetDirectoryName(reference)!);

        Tokenizer made = TokenizerLoader.FromFolder(_folder.FullName);

        foreach (string text in (string[])["Hello world", "e\u0301 é 12345 I'LL\r\n\r\n", "<|im_start|>user\nhi<|im_end|> <think>", "日本語😀"])
        {
            Assert.Equal(whole.Encode(text), made.Encode(text));
        }

        Assert.Equal(whole.VocabularySize, made.VocabularySize);
        Assert.Equal(whole.EosTokenId, made.EosTokenId);
    }

    [Fact]
    public void Files_without_a_known_class_are_refused_with_the_way_out()
    {
        WriteVocabulary();
        Write("tokenizer_config.json", """{"tokenizer_class": "PreTrainedTokenizerFast"}""");

        var error = Assert.Throws<MalformedFileException>(() => TokenizerLoader.FromFolder(_folder.FullName));

        Assert.Contains("found tokenizer_class PreTrainedTokenizerFast", error.Message);
        Assert.Contains("GPT2Tokenizer", error.Message);
        Assert.Contains("save_pretrained", error.Message);
    }

    [Theory]
    [InlineData("merges.txt", "#version: 0.2\na b c\n", "line 2 is 'a b c'")]
    [InlineData("merges.txt", "a ☃\n", "has no token '☃'")]
    [InlineData("vocab.json", """{"a": "one"}""", "the token 'a' has the id \"one\"")]
    [InlineData("vocab.json", "{}", "holds no tokens")]
    [InlineData("vocab.json", "[1", "is not valid JSON")]
    [InlineData("added_tokens.json", """{"<new>": 17}""", "has the id 17")]
    [InlineData("tokenizer_config.json", """{"tokenizer_class": "GPT2Tokenizer", "added_tokens_decoder": {"x": {"content": "<new>"}}}""", "has the entry \"x\"")]
    public void A_damaged_file_is_named(string file, string content, string part)
    {
        WriteVocabulary();
        Write("tokenizer_config.json", """{"tokenizer_class": "GPT2Tokenizer"}""");
        Write(file, content);

        var error = Assert.Throws<MalformedFileException>(() => TokenizerLoader.FromFolder(_folder.FullName));

        Assert.Contains(part, error.Message);
    }

    private static int[] Ids(JsonNode node) => [.. node.AsArray().Select(id => (int)id!)];

    private void WriteVocabulary(JsonNode? tokenizer = null)
    {
        JsonNode model = (tokenizer ?? JsonNode.Parse(File.ReadAllText(Fixtures.Path("tokenizers/tiny-base/tokenizer.json"))))!["model"]!;
        Write("vocab.json", model["vocab"]!.ToJsonString());
        IEnumerable<string> merges = model["merges"]!.AsArray().Select(merge => merge is JsonArray pair ? $"{pair[0]} {pair[1]}" : (string)merge!);
        Write("merges.txt", "#version: 0.2\n" + string.Concat(merges.Select(merge => merge + "\n")));
    }

    private void Write(string name, string content) => File.WriteAllText(Path.Combine(_folder.FullName, name), content);
}
