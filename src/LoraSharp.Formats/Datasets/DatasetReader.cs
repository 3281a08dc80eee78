using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using LoraSharp.Formats.HuggingFace;

namespace LoraSharp.Formats.Datasets;

/// <summary>
/// Rows of a data file, streamed: JSON lines, JSON (an array, or an object that holds one), CSV, TSV, Parquet and plain
/// text, packed with gzip, xz or Zstandard or not. The kind is taken from the extension and corrected by the content.
/// </summary>
public static class DatasetReader
{
    /// <summary>A row may not be longer than this many characters: a file without line ends must not fill the memory.</summary>
    public const int LongestRow = 64 << 20;

    /// <summary>The rows of a file, one at a time.</summary>
    /// <exception cref="DatasetException">A row is malformed: file, line, column, what was expected, the row cut short.</exception>
    /// <exception cref="MalformedFileException">The file is missing, broken or of no known kind.</exception>
    public static IEnumerable<DatasetRow> Read(string path)
    {
        using var stream = new PeekStream(CompressedFile.Open(path));
        using IEnumerator<DatasetRow> rows = Begin(path, stream);
        while (true)
        {
            DatasetRow row;
            try
            {
                if (!rows.MoveNext())
                {
                    yield break;
                }

                row = rows.Current;
            }
            catch (DecoderFallbackException error)
            {
                throw new MalformedFileException(path, $"is not valid UTF-8 text: {error.Message} Expected data as UTF-8 (or packed with gzip, xz, zstd).", error);
            }
            catch (Exception error) when (IsBrokenInput(error))
            {
                throw Broken(path, error);
            }

            yield return row;
        }
    }

    // The kind shows in the first bytes, and to unpack them may fail already.
    private static IEnumerator<DatasetRow> Begin(string path, PeekStream stream)
    {
        try
        {
            return Open(path, stream).GetEnumerator();
        }
        catch (Exception error) when (IsBrokenInput(error))
        {
            throw Broken(path, error);
        }
    }

    private static MalformedFileException Broken(string path, Exception error) => new(path, $"is truncated or broken: {error.Message}", error);

    private static bool IsBrokenInput(Exception error) =>
        error is InvalidDataException or IOException or ZstdSharp.ZstdException
        || error.GetType().Namespace?.StartsWith("SharpCompress", StringComparison.Ordinal) == true;

    private static IEnumerable<DatasetRow> Open(string path, PeekStream stream)
    {
        ReadOnlySpan<byte> head = stream.Peek(4096);
        if (head.StartsWith("PAR1"u8))
        {
            return ParquetRows.Read(path, stream);
        }

        string extension = CompressedFile.InnerExtension(path);
        byte first = FirstVisible(head);
        return extension switch
        {
            ".csv" => CsvRows.Read(path, stream, null),
            ".tsv" => CsvRows.Read(path, stream, '\t'),
            ".txt" or ".text" or ".md" => Lines(path, stream),
            ".jsonl" or ".ndjson" when first != '[' => JsonLines(path, stream),
            ".parquet" => throw new MalformedFileException(path, "is no Parquet file: it does not begin with PAR1."),
            _ when first is (byte)'[' or (byte)'{' => JsonRows(path, stream),
            ".json" or ".jsonl" or ".ndjson" => head.IsEmpty ? [] : throw new MalformedFileException(path, $"expected JSON that begins with [ or {{, found '{(char)first}'."),
            _ => throw new MalformedFileException(path, $"is of no known kind. Expected {string.Join(" ", DatasetFiles.Extensions)}, each also .gz, .xz or .zst."),
        };
    }

    private static IEnumerable<DatasetRow> Lines(string path, Stream stream)
    {
        using var scanner = new TextScanner(path, stream);
        while (scanner.NextLine() is { } line)
        {
            if (!string.IsNullOrWhiteSpace(line))
            {
                yield return new DatasetRow(new RowOrigin(path, scanner.StartLine), new JsonObject { ["text"] = line });
            }
        }
    }

    private static IEnumerable<DatasetRow> JsonLines(string path, Stream stream)
    {
        using var scanner = new TextScanner(path, stream);
        while (scanner.NextLine() is { } line)
        {
            if (!string.IsNullOrWhiteSpace(line))
            {
                yield return ParseRow(new RowOrigin(path, scanner.StartLine), line);
            }
        }
    }

    private static IEnumerable<DatasetRow> JsonRows(string path, Stream stream)
    {
        using var scanner = new TextScanner(path, stream);
        if (scanner.PeekVisible() == '[')
        {
            foreach (string element in scanner.ArrayElements())
            {
                yield return ParseRow(new RowOrigin(path, scanner.StartLine), element);
            }

            yield break;
        }

        // One object that holds the rows, or objects that follow each other (JSON lines under another name).
        string only = scanner.NextValue()!;
        long start = scanner.StartLine;
        if (scanner.PeekVisible() is null && RowsWithin(path, only, start) is { } rows)
        {
            foreach (DatasetRow row in rows)
            {
                yield return row;
            }

            yield break;
        }

        yield return ParseRow(new RowOrigin(path, start), only);
        while (scanner.NextValue() is { } next)
        {
            yield return ParseRow(new RowOrigin(path, scanner.StartLine), next);
        }
    }

    private static IEnumerable<DatasetRow>? RowsWithin(string path, string text, long line)
    {
        JsonObject holder = ParseRow(new RowOrigin(path, line), text).Fields;
        string? name = new[] { "data", "rows", "train", "examples", "instances", "items" }.FirstOrDefault(n => holder[n] is JsonArray array && array.All(e => e is JsonObject));
        if (name is null)
        {
            return null;
        }

        // Scanned again rather than taken from the parsed object, so that each row knows its line.
        return Rows();

        IEnumerable<DatasetRow> Rows()
        {
            using var scanner = new TextScanner(path, text, line);
            foreach (string element in scanner.ArrayElements(name))
            {
                yield return ParseRow(new RowOrigin(path, scanner.StartLine), element);
            }
        }
    }

    internal static DatasetRow ParseRow(RowOrigin origin, string text)
    {
        JsonNode? node;
        try
        {
            node = StrictJson.Parse(text);
        }
        catch (JsonException error)
        {
            string reason = error.Message;
            int at = reason.IndexOf(" LineNumber:", StringComparison.Ordinal);
            RowOrigin exact = origin with { Line = origin.Line + (error.LineNumber ?? 0) };
            throw new DatasetException(exact, error.BytePositionInLine + 1, $"the row is not valid JSON: {(at < 0 ? reason : reason[..at])}", text, error);
        }

        return node is JsonObject fields
            ? new DatasetRow(origin, fields)
            : throw new DatasetException(origin, null, $"expected a JSON object a row, such as {{\"prompt\": \"...\", \"completion\": \"...\"}}, found {Kind(node)}.", text);
    }

    internal static string Kind(JsonNode? node) => node?.GetValueKind() switch
    {
        null or JsonValueKind.Null => "null",
        JsonValueKind.String => "text",
        JsonValueKind.Number => "a number",
        JsonValueKind.True or JsonValueKind.False => "true/false",
        JsonValueKind.Array => "a list",
        _ => "an object",
    };

    private static byte FirstVisible(ReadOnlySpan<byte> head)
    {
        if (head.StartsWith(Encoding.UTF8.Preamble))
        {
            head = head[3..];
        }

        head = head.TrimStart(" \t\r\n"u8);
        return head.IsEmpty ? (byte)0 : head[0];
    }
}
