using System.Text;
using System.Text.Json.Nodes;
using CsvHelper;

namespace LoraSharp.Formats.Datasets;

/// <summary>Rows of a CSV or TSV file (RFC 4180: quoted cells may hold separators and line ends); the first line names the columns.</summary>
internal static class CsvRows
{
    public static IEnumerable<DatasetRow> Read(string path, PeekStream stream, char? separator)
    {
        var options = new CsvReaderOptions
        {
            Separator = separator ?? Separator(stream),
            TrackLineNumbers = true,
            MaxRecordSize = DatasetReader.LongestRow,
            MalformedData = CsvMalformedDataHandling.Throw,
        };
        // Through a StreamReader, so that bytes that are no UTF-8 are an error rather than replaced.
        using var text = new StreamReader(stream, new UTF8Encoding(false, throwOnInvalidBytes: true), detectEncodingFromByteOrderMarks: true);
        using CsvReader reader = CsvReader.Create(text, options, leaveOpen: true);
        if (!Next(path, reader))
        {
            yield break;
        }

        string[] names = [.. reader.Headers.Select(n => n.Trim())];
        if (names.Where(n => n.Length > 0).GroupBy(n => n).FirstOrDefault(g => g.Count() > 1) is { } twice)
        {
            throw new DatasetException(new RowOrigin(path, 1), null, $"the column '{twice.Key}' stands twice in the first line.");
        }

        do
        {
            var origin = new RowOrigin(path, reader.LineNumber);
            if (reader.FieldCount != names.Length)
            {
                throw new DatasetException(origin, null, $"expected {names.Length} cells ({string.Join(", ", names)}), found {reader.FieldCount}. A cell with a separator or a line end must stand in quotes.", Encoding.UTF8.GetString(reader.RawRecord));
            }

            var fields = new JsonObject();
            for (int i = 0; i < names.Length; i++)
            {
                if (names[i].Length > 0)
                {
                    fields[names[i]] = reader.GetString(i);
                }
            }

            yield return new DatasetRow(origin, fields);
        }
        while (Next(path, reader));
    }

    private static bool Next(string path, CsvReader reader)
    {
        try
        {
            return reader.Read();
        }
        catch (CsvFormatException error)
        {
            throw new DatasetException(new RowOrigin(path, error.LineNumber), null, $"the row is not valid CSV: {error.Message}", null, error);
        }
    }

    // Spreadsheets of many countries write semicolons. The header tells; data cells would mislead.
    private static char Separator(PeekStream stream)
    {
        string header = Encoding.UTF8.GetString(stream.Head);
        int end = header.AsSpan().IndexOfAny('\n', '\r');
        header = end < 0 ? header : header[..end];
        return header.Contains(',') ? ',' : header.Contains(';') ? ';' : header.Contains('\t') ? '\t' : ',';
    }
}
