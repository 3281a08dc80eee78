using System.Text.Json.Nodes;
using LoraSharp.Formats.Tokenization;

namespace LoraSharp.Formats.Tests.Tokenization;

/// <summary>A folder with tokenizer.model alone, against the sentencepiece library (tests/Fixtures/make/make_sentencepiece.py).</summary>
public sealed class SentencePieceTests
{
    [Theory]
    [InlineData("bpe_bytes")]
    [InlineData("unigram_nmt")]
    [InlineData("unigram_bytes")]
    public void A_model_file_alone_encodes_as_the_library(string name)
    {
        string folder = Fixtures.Path("tokenizers/sentencepiece/" + name);
        Tokenizer tokenizer = TokenizerLoader.FromFolder(folder);
        var faults = new List<string>();
        foreach (JsonNode? row in JsonNode.Parse(File.ReadAllText(Path.Combine(folder, "golden.json")))!.AsArray())
        {
            string text = (string)row!["text"]!;
            int[] expected = [.. row["ids"]!.AsArray().Select(i => (int)i!)];
            if (name == "bpe_bytes" && text.StartsWith("<tool>", StringComparison.Ordinal))
            {
                // The library puts its prefix before a symbol at the very beginning; transformers does not, and we follow it.
                expected = expected[1..];
            }

            int[] found = tokenizer.Encode(text, addSpecialTokens: false);
            if (!expected.SequenceEqual(found))
            {
                faults.Add($"'{text}': expected {string.Join(' ', expected)}, found {string.Join(' ', found)}");
            }
        }

        Assert.Empty(faults);
        Assert.Equal("<s>", tokenizer.IdToToken(tokenizer.BosTokenId!.Value));
        Assert.Equal(name == "bpe_bytes", tokenizer.Encode("a")[0] == tokenizer.BosTokenId);
    }

    [Fact]
    public void A_file_that_is_no_model_is_refused()
    {
        DirectoryInfo folder = Directory.CreateTempSubdirectory("lorasharp-spm-");
        File.WriteAllBytes(Path.Combine(folder.FullName, "tokenizer.model"), [0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f, 1]);

        var error = Assert.Throws<MalformedFileException>(() => TokenizerLoader.FromFolder(folder.FullName));

        Assert.Contains("not a SentencePiece model", error.Message);
        folder.Delete(recursive: true);
    }
}
