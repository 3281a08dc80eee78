using System.Text.Json;
using System.Text.Json.Nodes;

namespace LoraSharp.Formats.Datasets;

/// <summary>One row of a data set as the file has it.</summary>
/// <param name="Origin">Where it stands.</param>
/// <param name="Fields">Its columns; CSV cells are strings, a line of plain text is <c>{"text": line}</c>.</param>
public sealed record DatasetRow(RowOrigin Origin, JsonObject Fields)
{
    /// <summary>The row as JSON, cut short for a message.</summary>
    public string Excerpt(int length = 160) => DatasetException.Cut(Fields.ToJsonString(Relaxed), length);

    private static readonly JsonSerializerOptions Relaxed = new() { Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping };
}

/// <summary>A row of a data set is not what it should be; the message names file, line and column where known, and quotes the row.</summary>
public sealed class DatasetException : LoraSharpException
{
    /// <summary>Creates the error for a row that was read.</summary>
    /// <param name="row">The row; it is quoted, cut short.</param>
    /// <param name="message">What is wrong, expected, found, what to do.</param>
    public DatasetException(DatasetRow row, string message)
        : this(row.Origin, null, message, row.Excerpt())
    {
    }

    /// <summary>Creates the error for a place in a file.</summary>
    /// <param name="origin">File and line.</param>
    /// <param name="column">Column in that line, from 1, in bytes; null when unknown.</param>
    /// <param name="message">What is wrong, expected, found, what to do.</param>
    /// <param name="row">The row's text; it is cut short; null when there is none.</param>
    /// <param name="inner">The error underneath, if there is one.</param>
    public DatasetException(RowOrigin origin, long? column, string message, string? row = null, Exception? inner = null)
        : base($"{origin}{(column is null ? "" : $":{column}")}: {message}{(row is null ? "" : $" Row: {Cut(row, 160)}")}", inner) => Origin = origin;

    /// <summary>File and line at fault.</summary>
    public RowOrigin Origin { get; }

    internal static string Cut(string text, int length)
    {
        string line = text.ReplaceLineEndings(" ");
        if (line.Length <= length)
        {
            return line;
        }

        int end = char.IsHighSurrogate(line[length - 1]) ? length - 1 : length;
        return $"{line[..end]}… ({line.Length} characters)";
    }
}
