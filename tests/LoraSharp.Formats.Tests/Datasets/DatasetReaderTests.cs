using System.IO.Compression;
using System.Text;
using System.Text.Json.Nodes;
using LoraSharp.Formats.Datasets;
using Parquet.Serialization;

namespace LoraSharp.Formats.Tests.Datasets;

public sealed class DatasetReaderTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("lorasharp-data").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void Json_lines_know_their_lines_and_skip_blank_ones()
    {
        DatasetRow[] rows = Read("a.jsonl", "\uFEFF{\"text\": \"one\"}\r\n\n{\"text\": \"two\\nlines\"}\n   \n{\"text\":\"three\"}");
        Assert.Equal(["one", "two\nlines", "three"], rows.Select(r => (string)r.Fields["text"]!));
        Assert.Equal([1, 3, 5], rows.Select(r => (int)r.Origin.Line));
    }

    [Theory]
    [InlineData("[\n{\"text\": \"a ] } \\\" [\"},\n\n{\"text\": {\"b\": [1, 2]}}\n]")]
    [InlineData("{\"version\": [1], \"data\":\n\n [{\"text\": \"a ] } \\\" [\"},\n{\"text\": {\"b\": [1, 2]}}]}")]
    [InlineData("\n{\"text\": \"a ] } \\\" [\"}\n\n{\"text\":\n {\"b\": [1, 2]}}")]
    public void Json_in_its_shapes(string text)
    {
        DatasetRow[] rows = Read("a.json", text);
        Assert.Equal("a ] } \" [", (string)rows[0].Fields["text"]!);
        Assert.Equal("{\"b\":[1,2]}", rows[1].Fields["text"]!.ToJsonString());
        Assert.Equal(2, rows.Length);
        Assert.True(rows[1].Origin.Line > rows[0].Origin.Line);
    }

    [Fact]
    public void A_long_json_array_crosses_the_scanners_buffer()
    {
        string[] texts = [.. Enumerable.Range(0, 3000).Select(i => new string((char)('a' + (i % 26)), i % 97) + "\"\\" + i)];
        var array = new JsonArray([.. texts.Select(t => (JsonNode)new JsonObject { ["text"] = t })]);
        Assert.Equal(texts, Read("a.json", array.ToJsonString()).Select(r => (string)r.Fields["text"]!));
    }

    [Fact]
    public void Csv_cells_may_hold_separators_quotes_and_line_ends()
    {
        DatasetRow[] rows = Read("a.csv", "prompt,completion\n\"a, \"\"b\"\"\nc\",d\ne,\n");
        Assert.Equal(["a, \"b\"\nc", "e"], rows.Select(r => (string)r.Fields["prompt"]!));
        Assert.Equal(["d", ""], rows.Select(r => (string)r.Fields["completion"]!));
        Assert.Equal([2, 4], rows.Select(r => (int)r.Origin.Line));
    }

    [Theory]
    [InlineData("a.tsv", "prompt\tcompletion\na, b; c\td\n")]
    [InlineData("a.csv", "prompt;completion\n\"a, b; c\";d\n")]
    public void Other_separators(string name, string text) => Assert.Equal("a, b; c", (string)Assert.Single(Read(name, text)).Fields["prompt"]!);

    [Fact]
    public void Csv_rows_of_another_width_are_named()
    {
        string message = Assert.Throws<DatasetException>(() => Read("a.csv", "prompt,completion\na,b\nc,d,e\n")).Message;
        Assert.Contains("a.csv:3", message);
        Assert.Contains("expected 2 cells (prompt, completion), found 3", message);
    }

    [Fact]
    public void Csv_with_an_open_quote_is_an_error() => Assert.Throws<DatasetException>(() => Read("a.csv", "prompt,completion\na,\"b\nc,d\n"));

    [Fact]
    public void Text_is_a_row_a_line() => Assert.Equal(["one", " two"], Read("a.txt", "one\n\n two\n").Select(r => (string)r.Fields["text"]!));

    [Fact]
    public async Task Parquet_with_nested_messages()
    {
        string path = Path.Combine(_folder, "a.parquet");
        await using (FileStream file = File.Create(path))
        {
            await ParquetSerializer.SerializeAsync(
                [
                    new ParquetRow { Prompt = "p", Number = 3, Messages = [new ParquetMessage { Role = "user", Content = "hi" }, new ParquetMessage { Role = "assistant", Content = "ho" }] },
                    new ParquetRow { Prompt = null, Number = 4, Messages = [] },
                ],
                file,
                cancellationToken: TestContext.Current.CancellationToken);
        }

        File.WriteAllBytes(path + ".gz", Packed(File.ReadAllBytes(path)));
        foreach (string name in (string[])[path, path + ".gz"])
        {
            DatasetRow[] rows = [.. DatasetReader.Read(name)];
            Assert.Equal("""{"Prompt":"p","Number":3,"Messages":[{"Role":"user","Content":"hi"},{"Role":"assistant","Content":"ho"}]}""", rows[0].Fields.ToJsonString());
            Assert.Null(rows[1].Fields["Prompt"]);
            Assert.Equal([1, 2], rows.Select(r => (int)r.Origin.Line));
        }
    }

    [Fact]
    public void Packed_files_are_known_by_their_content()
    {
        byte[] plain = Encoding.UTF8.GetBytes("{\"text\": \"packed\"}\n");
        File.WriteAllBytes(Path.Combine(_folder, "a.jsonl.gz"), Packed(plain));
        File.WriteAllBytes(Path.Combine(_folder, "b.jsonl"), Packed(plain));
        using (FileStream file = File.Create(Path.Combine(_folder, "c.jsonl.zst")))
        using (var zstd = new ZstdSharp.CompressionStream(file))
        {
            zstd.Write(plain);
        }

        // xz -c of the same text.
        File.WriteAllBytes(Path.Combine(_folder, "d.jsonl.xz"), Convert.FromBase64String(Xz));
        DatasetRow[] rows = [.. DatasetFiles.Expand(_folder).SelectMany(DatasetReader.Read)];
        Assert.Equal(["packed", "packed", "packed", "packed"], rows.Select(r => (string)r.Fields["text"]!));
    }

    [Fact]
    public void A_truncated_packed_file_is_an_error()
    {
        byte[] packed = Packed(Encoding.UTF8.GetBytes(string.Concat(Enumerable.Range(0, 5000).Select(i => $"{{\"text\": \"{i * 7919 % 10007}\"}}\n"))));
        string path = Path.Combine(_folder, "a.jsonl.gz");
        File.WriteAllBytes(path, packed[..(packed.Length / 2)]);
        Assert.Contains("a.jsonl.gz", Assert.ThrowsAny<LoraSharpException>(() => DatasetReader.Read(path).Count()).Message);
    }

    [Fact]
    public void A_packed_file_that_ends_at_a_line_end_too_early_is_an_error()
    {
        string path = Path.Combine(_folder, "line.jsonl.gz");
        using (var file = new MemoryStream())
        {
            var packer = new System.IO.Compression.GZipStream(file, System.IO.Compression.CompressionLevel.Fastest, leaveOpen: true);
            packer.Write("{\"text\": \"one\"}\n"u8);
            packer.Flush();

            // Whole rows are there, the rest is not.
            File.WriteAllBytes(path, file.ToArray());
        }

        Assert.Contains("line.jsonl.gz: is truncated or broken", Assert.ThrowsAny<LoraSharpException>(() => DatasetReader.Read(path).Count()).Message);
    }

    [Fact]
    public void A_packed_file_that_is_broken_from_its_first_bytes_is_an_error()
    {
        string path = Path.Combine(_folder, "broken.jsonl.xz");
        File.WriteAllBytes(path, [0xfd, (byte)'7', (byte)'z', (byte)'X', (byte)'Z', 0, 0, 4, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        Assert.Contains("broken.jsonl.xz: is truncated or broken", Assert.ThrowsAny<LoraSharpException>(() => DatasetReader.Read(path).Count()).Message);
    }

    [Fact]
    public void A_malformed_line_is_named_with_line_and_column_and_quoted()
    {
        string message = Assert.Throws<DatasetException>(() => Read("a.jsonl", $"{{\"text\": \"one\"}}\n{{\"text\": one, \"more\": \"{new string('x', 500)}\"}}\n")).Message;
        Assert.Contains("a.jsonl:2:10: the row is not valid JSON", message);
        Assert.Contains("Row: {\"text\": one, ", message);
        Assert.True(message.Length < 500, message);
    }

    [Theory]
    [InlineData("a.json", "[{\"text\": \"a\"},\n {\"text\": \"b\"", "a.json:2")]
    [InlineData("a.json", "[{\"text\": \"a\"},\n {\"text\": \"b", "a.json:2")]
    [InlineData("a.json", "[{\"text\": \"a\"}\n {\"text\": \"b\"}]", "expected ','")]
    [InlineData("a.json", "[{\"text\": \"a\"}] x", "expected the end of the file")]
    [InlineData("a.json", "hello", "expected JSON")]
    [InlineData("a.jsonl", "{\"text\": \"a\"}\n[1]\n", "a.jsonl:2: expected a JSON object")]
    [InlineData("a.jsonl", "{\"text\": \"a\", \"text\": \"b\"}\n", "a.jsonl:1")]
    [InlineData("a.dat", "hello", "no known kind")]
    public void Broken_json_is_named(string name, string text, string expected) =>
        Assert.Contains(expected, Assert.ThrowsAny<LoraSharpException>(() => Read(name, text)).Message);

    [Fact]
    public void Bytes_that_are_no_utf8_are_an_error()
    {
        string path = Path.Combine(_folder, "a.jsonl");
        File.WriteAllBytes(path, [.. "{\"text\": \""u8, 0xff, .. "\"}"u8]);
        Assert.Contains("UTF-8", Assert.ThrowsAny<LoraSharpException>(() => DatasetReader.Read(path).Count()).Message);
    }

    [Fact]
    public void Missing_files_and_empty_folders_are_named()
    {
        Assert.Contains("no such file", Assert.Throws<LoraSharpException>(() => DatasetFiles.Expand(Path.Combine(_folder, "none.jsonl"))).Message);
        Assert.Contains("no data files", Assert.Throws<LoraSharpException>(() => DatasetFiles.Expand(_folder)).Message);
        Assert.Contains("no file matches", Assert.Throws<LoraSharpException>(() => DatasetFiles.Expand(Path.Combine(_folder, "*.jsonl"))).Message);
    }

    [Fact]
    public void Folders_and_patterns_give_files_by_split()
    {
        Directory.CreateDirectory(Path.Combine(_folder, "sub"));
        foreach (string name in (string[])["train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl", "test.jsonl.gz", "notes.docx", "sub/valid.csv"])
        {
            File.WriteAllText(Path.Combine(_folder, name), "");
        }

        string[] Names(string path, string? split) => [.. DatasetFiles.Expand(path, split).Select(f => Path.GetRelativePath(_folder, f).Replace('\\', '/'))];
        Assert.Equal(["train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl"], Names(_folder, "train"));
        Assert.Equal(["sub/valid.csv"], Names(_folder, "validation"));
        Assert.Equal(4, Names(_folder, null).Length);
        Assert.Equal(["test.jsonl.gz", "train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl"], Names(Path.Combine(_folder, "*.jsonl*"), "train"));
        Assert.Equal(["sub/valid.csv"], Names(Path.Combine(_folder, "**", "v?lid.csv"), null));
    }

    private DatasetRow[] Read(string name, string text)
    {
        string path = Path.Combine(_folder, name);
        File.WriteAllText(path, text, new UTF8Encoding(false));
        return [.. DatasetReader.Read(path)];
    }

    private static byte[] Packed(byte[] plain)
    {
        using var memory = new MemoryStream();
        using (var gzip = new GZipStream(memory, CompressionLevel.Optimal))
        {
            gzip.Write(plain);
        }

        return memory.ToArray();
    }

    private const string Xz = "/Td6WFoAAATm1rRGAgAhARYAAAB0L+WjAQASeyJ0ZXh0IjogInBhY2tlZCJ9CgAAJGERhk6PD1oAASsTnAlI0h+2830BAAAAAARZWg==";

    private sealed class ParquetRow
    {
        public string? Prompt { get; set; }

        public int Number { get; set; }

        public List<ParquetMessage>? Messages { get; set; }
    }

    private sealed class ParquetMessage
    {
        public string? Role { get; set; }

        public string? Content { get; set; }
    }
}
