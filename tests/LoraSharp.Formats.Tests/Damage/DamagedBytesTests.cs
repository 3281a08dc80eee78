using System.IO.Compression;
using System.Text;
using LoraSharp.Formats.Datasets;
using LoraSharp.Formats.Tokenization;

namespace LoraSharp.Formats.Tests.Damage;

/// <summary>Data sets and tokenizer.model with bytes changed, lost or doubled. (GGUF and safetensors: HeaderFuzzTests.)</summary>
public sealed class DamagedBytesTests : IDisposable
{
    private const string Rows =
        """
        {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi 😀"}, {"role": "assistant", "content": "Hello", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}]}], "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}

        """;

    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("lorasharp-damage-");

    public void Dispose() => _folder.Delete(recursive: true);

    [Theory]
    [InlineData("bpe_bytes")]
    [InlineData("unigram_nmt")]
    public void SentencePiece_models(string name)
    {
        byte[] whole = File.ReadAllBytes(Fixtures.Path($"tokenizers/sentencepiece/{name}/tokenizer.model"));
        Try("tokenizer.model", whole, 150, () =>
        {
            Tokenizer tokenizer = TokenizerLoader.FromFolder(_folder.FullName);
            _ = tokenizer.Decode(tokenizer.Encode("Hello wörld 日本 😀"));
        });
    }

    [Theory]
    [InlineData("rows.jsonl")]
    [InlineData("rows.json")]
    [InlineData("rows.jsonl.gz")]
    [InlineData("rows.csv")]
    public void Rows_of_text(string name)
    {
        string text = name.EndsWith(".csv", StringComparison.Ordinal) ? "prompt,completion\n\"a \"\"b\"\"\",c\nd,\"e\nf\"\n"
            : name.EndsWith(".json", StringComparison.Ordinal) ? "[" + Rows.Trim().ReplaceLineEndings(",") + "]"
            : Rows;
        Try(name, name.EndsWith(".gz", StringComparison.Ordinal) ? Compressed(text) : Encoding.UTF8.GetBytes(text), 400, () => ReadAll(name));
    }

    [Fact]
    public async Task Rows_of_Parquet()
    {
        await Parquet.Serialization.ParquetSerializer.SerializeAsync<TextRow>([new() { Text = "one" }, new() { Text = "two 😀" }, new() { Text = new string('x', 300) }], InFolder("whole.parquet"), cancellationToken: TestContext.Current.CancellationToken);
        Try("rows.parquet", await File.ReadAllBytesAsync(InFolder("whole.parquet"), TestContext.Current.CancellationToken), 300, () => ReadAll("rows.parquet"));
    }

    [Fact]
    public void Rows_of_another_meaning()
    {
        string[] lines = Rows.Trim().Split('\n');
        DamagedFile.Try(
            DamagedFile.Count(600),
            5,
            random =>
            {
                string mutated = JsonMutations.Mutate(lines[random.Next(2)], random) + "\n" + lines[1];
                File.WriteAllText(InFolder("rows.jsonl"), mutated);
                return mutated;
            },
            () => ReadAll("rows.jsonl"));
    }

    private static byte[] Compressed(string text)
    {
        using var target = new MemoryStream();
        using (var gzip = new GZipStream(target, CompressionLevel.Optimal))
        {
            gzip.Write(Encoding.UTF8.GetBytes(text));
        }

        return target.ToArray();
    }

    private void ReadAll(string name)
    {
        var parser = new RowParser();
        foreach (DatasetRow row in DatasetReader.Read(InFolder(name)))
        {
            _ = parser.Parse(row);
        }
    }

    private void Try(string name, byte[] whole, int count, Action open) => DamagedFile.Try(
        DamagedFile.Count(count),
        name.Length,
        random =>
        {
            byte[] mutated = Mutate(whole, random);
            File.WriteAllBytes(InFolder(name), mutated);
            return Convert.ToHexString(mutated.AsSpan(0, Math.Min(100, mutated.Length)));
        },
        open);

    private static byte[] Mutate(byte[] whole, Random random)
    {
        byte[] bytes = [.. whole];
        for (int change = random.Next(1, 4); change > 0 && bytes.Length > 4; change--)
        {
            int at = random.Next(bytes.Length);
            int length = random.Next(1, Math.Min(32, bytes.Length - at) + 1);
            switch (random.Next(6))
            {
                case 0:
                    bytes[at] ^= (byte)(1 << random.Next(8));
                    break;
                case 1:
                    bytes[at] = (byte)random.Next(256);
                    break;
                case 2:
                    bytes = [.. bytes[..at], .. bytes[(at + length)..]];
                    break;
                case 3:
                    bytes = [.. bytes[..(at + length)], .. bytes[at..]];
                    break;
                case 4:
                    bytes.AsSpan(at, length).Fill(random.Next(2) == 0 ? (byte)0 : (byte)0xFF);
                    break;
                default:
                    bytes = bytes[..at];
                    break;
            }
        }

        return bytes;
    }

    private string InFolder(string name) => Path.Combine(_folder.FullName, name);

    private sealed class TextRow
    {
        [System.Text.Json.Serialization.JsonPropertyName("text")]
        public string? Text { get; set; }
    }
}
